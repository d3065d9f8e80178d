"""`hybridserve alerts list | export`: recording rules and alerts, from the settings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hybridserve.cli.options import AsJson, Assignments, ConfigFile
from hybridserve.errors import ConfigError
from hybridserve.observability.rules.alerts import alerts
from hybridserve.observability.rules.files import rule_files
from hybridserve.settings import load

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Alerts and recording rules for Prometheus.")


@app.command("list")
def show(config: ConfigFile = None, assign: Assignments = None, as_json: AsJson = False) -> None:
    """Print every alert with its severity and runbook.

    Example: hybridserve alerts list
    """
    found = alerts(load(config, assign or ()).settings.telemetry)
    if as_json:
        typer.echo(json.dumps([{**asdict(alert), "runbook_url": alert.runbook_url} for alert in found], indent=2))
        return
    width = max(len(alert.name) for alert in found)
    for alert in found:
        typer.echo(f"{alert.name:<{width}}  {alert.severity:<6}  for {alert.hold:<3}  {alert.description}")


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write the rule files to.")] = Path(
        "rules"
    ),
    config: ConfigFile = None,
    assign: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Write the rule files, with the targets of section `telemetry`.

    Example: hybridserve alerts export --out monitoring/rules
    """
    files = rule_files(load(config, assign or ()).settings.telemetry)
    written = write(out, files)
    typer.echo(json.dumps({"files": written}) if as_json else "\n".join(written))


def write(folder: Path, files: dict[str, str]) -> list[str]:
    """Write files into a folder and return their paths.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", f"{folder} cannot be written: {error.strerror}", "choose another folder") from None
    return [str(folder / name) for name in files]
