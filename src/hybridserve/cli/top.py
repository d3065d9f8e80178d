"""`hybridserve top`: state slots, blocks, latency, tokens and findings of every replica, live."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hybridserve.cli.options import AsJson
from hybridserve.errors import ServiceError
from hybridserve.observability.prometheus_api import Prometheus
from hybridserve.observability.top import MetricsPorts, ReplicaRow, from_prometheus
from hybridserve.settings.telemetry import TelemetrySection
from hybridserve.units import counted

_BAR = 10

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Watch slots, blocks, latency and findings live.")


@app.callback(invoke_without_command=True)
def top(
    urls: Annotated[
        list[str] | None, typer.Option("--url", metavar="URL", help="A replica's metrics port. Repeatable.")
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option("--prometheus", metavar="URL", help="Read from this Prometheus instead, for all replicas."),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", help="First metrics port of this machine, if no --url is given.")
    ] = TelemetrySection.model_fields["metrics_port"].default,
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between two updates.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print once and exit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch every replica until Ctrl-C.

    Example: hybridserve top --prometheus http://127.0.0.1:9090
    """
    read: Callable[[], list[ReplicaRow]] = MetricsPorts(urls or (), port).rows
    if prometheus is not None:
        read = partial(from_prometheus, Prometheus(prometheus))
    rows = read()
    if once or as_json:
        if prometheus is None:
            time.sleep(min(interval, 1.0))  # rates need two reads
            rows = read()
        if as_json:
            typer.echo(json.dumps({"replicas": [row.as_dict() for row in rows]}, indent=2))
        else:
            Console(width=None if Console().is_terminal else 132).print(table(rows))
        return
    with Live(table(rows), auto_refresh=False) as live, suppress(KeyboardInterrupt):
        while True:
            time.sleep(interval)
            rows, problem = read_or_keep(read, rows)
            live.update(Group(table(rows), Text(problem, style="red")) if problem else table(rows), refresh=True)


def read_or_keep(read: Callable[[], list[ReplicaRow]], before: list[ReplicaRow]) -> tuple[list[ReplicaRow], str]:
    """New rows; after an error the previous rows and the problem, so that a restart can be watched to its end."""
    try:
        return read(), ""
    except ServiceError as error:
        return before, f"no response, showing the last one: {error.where} {error.what}"


def table(rows: list[ReplicaRow]) -> Table:
    """The rows as a table."""
    total = sum(row.tokens_per_s or 0.0 for row in rows)
    title = f"hybridserve top  {time.strftime('%H:%M:%S')}  {counted(len(rows), 'replica')}  {total:,.0f} tokens/s"
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("replica", "model"):
        shown.add_column(name, no_wrap=True)
    for name in (
        "state slots",
        "blocks: state + attention",
        "run",
        "wait",
        "TTFT",
        "tokens/s",
        "req/s",
        "reused",
    ):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("notes", overflow="fold")
    for row in rows:
        shown.add_row(
            row.replica,
            row.model,
            f"{_bar(row.slots_used, row.slots)} {_text(row.slots_used)}/{_text(row.slots)}",
            f"{_text(row.state_blocks)} + {_text(row.attention_blocks)} of {_text(row.blocks)}",
            _text(row.running),
            _text(row.waiting),
            "-" if row.ttft_s is None else f"{row.ttft_s * 1000:,.0f} ms",
            _text(row.tokens_per_s),
            "-" if row.requests_per_s is None else f"{row.requests_per_s:.1f}",
            reused(row),
            ", ".join(notes(row)) or "ok",
        )
    return shown


def notes(row: ReplicaRow) -> list[str]:
    """What needs attention."""
    found = []
    if row.plan_differences:
        found.append(f"{row.plan_differences:.0f} fields off plan")
    if row.failed_findings:
        found.append(f"{row.failed_findings:.0f} error findings FAIL")
    if row.draining:
        found.append("draining")
    if row.slots and row.slots_used is not None and row.slots_used >= row.slots and row.waiting:
        found.append("slots full")
    return found


def reused(row: ReplicaRow) -> str:
    """Share of the reusable prompt tokens that the prefix cache had."""
    return (
        f"{row.reused_per_s / row.reusable_per_s:.0%}" if row.reusable_per_s and row.reused_per_s is not None else "-"
    )


def _bar(used: float | None, whole: float | None) -> str:
    filled = round(_BAR * min(used / whole, 1.0)) if used is not None and whole else 0
    return "#" * filled + "." * (_BAR - filled)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
