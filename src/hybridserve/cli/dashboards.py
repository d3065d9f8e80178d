"""`hybridserve dashboards export`: Grafana dashboards, generated from code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hybridserve.cli.alerts import write
from hybridserve.cli.options import AsJson, Assignments, ConfigFile, read_settings
from hybridserve.observability.dashboards import dashboards
from hybridserve.observability.dashboards.grafana import Format, dashboard

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Dashboards for Grafana 11 and later."
)


@app.callback()
def group() -> None:
    """Makes `export` a subcommand."""


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write the dashboards to.")] = Path(
        "dashboards"
    ),
    form: Annotated[
        Format, typer.Option("--format", help="classic: Grafana 11 and later; resource: Grafana 12's API object.")
    ] = "classic",
    config: ConfigFile = None,
    assign: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Write one file per dashboard.

    Example: hybridserve dashboards export --out monitoring/dashboards
    """
    section = read_settings(config, assign).settings.telemetry
    files = {f"{board.slug}.json": dashboard(board, form) for board in dashboards(section)}
    written = write(out, files)
    typer.echo(json.dumps({"files": written}) if as_json else "\n".join(written))
