"""Options shared by several verbs."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", metavar="FILE", help="YAML file with settings.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Set one value, as --set engine.max_num_seqs=8. Repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
