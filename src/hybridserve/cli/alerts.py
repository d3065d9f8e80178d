"""`hybridserve alerts list | export`: recording rules and alerts, from the settings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hybridserve.cli.options import AsJson, Assignments, ConfigFile, read_settings
from hybridserve.cli.tables import print_table
from hybridserve.errors import ConfigError
from hybridserve.observability.rules.alerts import RUNBOOKS, alerts, by_text, without_templates
from hybridserve.observability.rules.files import rule_files

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Alerts and recording rules for Prometheus."
)


@app.command("list")
def show(config: ConfigFile = None, assign: Assignments = None, as_json: AsJson = False) -> None:
    """Print every alert with its severity, meaning and runbook.

    Example: hybridserve alerts list
    """
    section = read_settings(config, assign).settings.telemetry
    if as_json:
        found = [{**asdict(alert), "runbook_url": alert.runbook_url} for alert in alerts(section)]
        typer.echo(json.dumps(found, indent=2))
        return
    rows = [("alert", "severity", "after", "runbook", "meaning")]
    for (name, summary), same in by_text(section).items():
        severities = ", ".join(alert.severity for alert in same)
        rows.append((name, severities, same[0].after, same[0].runbook, without_templates(summary, str.upper)))
    print_table(rows, left=range(5))
    typer.echo(f"\nRunbooks: {RUNBOOKS}/RUNBOOK.md, or docs/runbooks/RUNBOOK.md in the repository.")


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
    files = rule_files(read_settings(config, assign).settings.telemetry)
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
