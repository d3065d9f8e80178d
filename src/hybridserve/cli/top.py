"""`hybridserve top`: state slots, blocks, latency, tokens and findings of every replica, live."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
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
_GAP = 2
# Notes may wrap, but not to less than this.
_NOTES = 12

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
    console = Console(width=None if Console().is_terminal else 160)
    if once or as_json:
        if prometheus is None:
            time.sleep(min(interval, 1.0))  # rates need two reads
            rows = read()
        if as_json:
            typer.echo(json.dumps({"replicas": [row.as_dict() for row in rows]}, indent=2))
        else:
            console.print(table(rows, console.width))
        return
    with Live(table(rows, console.width), console=console, auto_refresh=False) as live, suppress(KeyboardInterrupt):
        while True:
            time.sleep(interval)
            rows, problem = read_or_keep(read, rows)
            shown = table(rows, console.width)
            live.update(Group(shown, Text(problem, style="red")) if problem else shown, refresh=True)


def read_or_keep(read: Callable[[], list[ReplicaRow]], before: list[ReplicaRow]) -> tuple[list[ReplicaRow], str]:
    """New rows; after an error the previous rows and the problem, so that a restart can be watched to its end."""
    try:
        return read(), ""
    except ServiceError as error:
        return before, f"no response, showing the last one: {error.where} {error.what}"


def table(rows: list[ReplicaRow], width: int) -> Table:
    """The rows as a table of at most `width` characters.

    A name that is cut off is useless, so whole columns are left out where the table is wider, and a last line names
    them.
    """
    cells = {name: [cell(row) for row in rows] for name, cell in _COLUMNS.items()}
    widths = {name: max(map(len, (name, *column))) for name, column in cells.items()}
    widths["notes"] = min(widths["notes"], _NOTES)

    def unused() -> int:
        """Characters of the width that no column needs; negative where they need more."""
        return width - sum(widths.values()) - _GAP * (len(widths) - 1)

    left_out = []
    for name in _LEFT_OUT:
        if unused() >= 0:
            break
        del widths[name]
        left_out.append(name)
    total = sum(row.tokens_per_s or 0.0 for row in rows)
    title = f"hybridserve top  {time.strftime('%H:%M:%S')}  {counted(len(rows), 'replica')}  {total:,.0f} tokens/s"
    caption = f"left out at {width} columns: {', '.join(left_out)}; --json has all" if left_out else None
    shown = Table(title=title, caption=caption, box=None, pad_edge=False)
    shown.title_justify = shown.caption_justify = "left"
    for name in widths:
        if name == "notes":
            shown.add_column(name, overflow="fold", max_width=max(widths[name] + unused(), 1))
        else:
            left = name in ("replica", "model")
            shown.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in zip(*(cells[name] for name in widths), strict=True):
        shown.add_row(*row)
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


_COLUMNS: Mapping[str, Callable[[ReplicaRow], str]] = {
    "replica": lambda row: row.replica,
    "model": lambda row: row.model,
    "state slots": lambda row: f"{_bar(row.slots_used, row.slots)} {_text(row.slots_used)}/{_text(row.slots)}",
    "blocks: state + attention": lambda row: (
        f"{_text(row.state_blocks)} + {_text(row.attention_blocks)} of {_text(row.blocks)}"
    ),
    "run": lambda row: _text(row.running),
    "wait": lambda row: _text(row.waiting),
    "TTFT": lambda row: "-" if row.ttft_s is None else f"{row.ttft_s * 1000:,.0f} ms",
    "tokens/s": lambda row: _text(row.tokens_per_s),
    "req/s": lambda row: "-" if row.requests_per_s is None else f"{row.requests_per_s:.1f}",
    "reused": reused,
    "notes": lambda row: ", ".join(notes(row)) or "ok",
}
# In this order; `replica` and `notes` stay.
_LEFT_OUT = ("blocks: state + attention", "reused", "req/s", "model", "TTFT", "tokens/s", "wait", "run", "state slots")
