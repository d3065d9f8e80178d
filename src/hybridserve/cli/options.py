"""Options shared by several verbs, and what a shell completes for them."""

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


def known_models(incomplete: str) -> list[str]:
    """Catalog ids of models that begin so."""
    from hybridserve.catalog.models import model_ids

    return [name for name in model_ids() if name.startswith(incomplete)]


def known_gpus(incomplete: str) -> list[str]:
    """Catalog ids of devices that begin so."""
    from hybridserve.catalog.accelerators import accelerators

    return [device.id for device in accelerators() if device.id.startswith(incomplete)]
