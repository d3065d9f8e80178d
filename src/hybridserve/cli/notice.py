"""`hybridserve notice`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hybridserve.cli.options import AsJson, Assignments, ConfigFile, read_settings
from hybridserve.cli.sources import settings_from
from hybridserve.compliance.attribution import attribution_bundle, missing_copies
from hybridserve.deployment.compliance_view import build_view
from hybridserve.errors import ConfigError

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Write the attribution files that ship with the weights."
)


@app.command()
def notice(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; created if it does not exist.")],
    config: ConfigFile = None,
    assign: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Write NOTICE, license references, the list of models and a CycloneDX bill of materials into DIR.

    The same settings give the same bytes. License texts are not included, because they are not ours to copy; the
    command lists the texts that you have to add.

    Example: hybridserve notice attribution -c hybridserve.yaml
    """
    loaded = read_settings(config, assign)
    settings, origin = loaded.settings, settings_from(loaded.sources, config)
    # The view reads license.bundle, which this command is about to write.
    section = settings.license.model_copy(update={"bundle": None})
    view = build_view(settings.model_copy(update={"license": section}))
    files, missing = attribution_bundle(view), missing_copies(view)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(folder), f"cannot be written: {error.strerror}", "give a writable folder") from None
    if as_json:
        about = {"models": [part.id for part in view.parts], "settings": origin}
        typer.echo(json.dumps({**about, "folder": str(folder), "files": list(files), "to_add": missing}, indent=2))
        return
    typer.echo(f"{' and the guard '.join(part.id for part in view.parts)}, settings from {origin}")
    for name in files:
        typer.echo(f"wrote {folder / name}")
    for sentence in missing:
        typer.echo(f"to add: {sentence}")
    if not missing:
        weights = settings.license.weights
        typer.echo(f"no license text has to be added: no license here requires a copy where weights are {weights}")
