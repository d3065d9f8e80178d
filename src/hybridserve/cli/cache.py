"""`hybridserve cache explain`: what recorded requests would hit under which settings, and what the settings cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hybridserve.cli.options import AsJson, Assignments, ConfigFile, read_settings
from hybridserve.cli.tables import print_table
from hybridserve.errors import ConfigError
from hybridserve.planning.cache.reuse_explain import Explained, explain
from hybridserve.planning.cache.reuse_trace import read_trace
from hybridserve.planning.resolve import plan_settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Explain prefix cache hits.")


@app.callback()
def group() -> None:
    """Explain prefix cache hits."""


@app.command(name="explain")
def explain_trace(
    trace: Annotated[Path, typer.Argument(help="Recorded requests: a file of telemetry.cache_trace_dir.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Show what the requests of TRACE would hit under each setting, and what the setting costs.

    Example: hybridserve cache explain traces/single.jsonl
    """
    try:
        lines = trace.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("TRACE", f"{trace} cannot be read: {error}", "name a file of recorded requests") from None
    requests = read_trace(lines, str(trace))
    found = explain(requests, plan_settings(read_settings(config, assignments).settings).advice.plan)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        show(found)


def show(found: Explained) -> None:
    """Print the result: one row for each combination of settings."""
    typer.echo(f"{found.requests:,} requests, {found.prompt:,} prompt tokens, {found.reusable:,} reusable")
    if found.recorded is not None:
        typer.echo(f"recorded: {found.recorded:,} hit")
    rows = [["settings", "hit", "share", "computed", "cached blocks", "of states", "N_safe"]]
    for option in found.options:
        run = option.replay
        counts = (run.prompt - run.hit, run.cached_blocks, run.state_blocks, option.n_safe)
        rows.append([option.name, f"{run.hit:,}", f"{run.share:.1%}", *(f"{count:,}" for count in counts)])
    print_table(rows, left=(0,))
    best = found.recommended
    lost = ", ".join(f"{cause} {count:,}" for cause, count in best.replay.lost.items()) or "nothing"
    typer.echo(f"recommended: {best.name}; still lost: {lost}")
