"""The tables of a load test, each built once and shown on the terminal and in the HTML report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from hybridserve.loadtest.metrics import Summary
from hybridserve.loadtest.statistics import Distribution

if TYPE_CHECKING:
    from hybridserve.loadtest.compare import Row
    from hybridserve.loadtest.runner import Result

MEASURES = {
    "ttft": "time to first token",
    "ttfa": "time to first answer token",
    "tpot": "time per output token",
    "itl": "inter-token latency",
    "e2e": "end to end",
    "norm_tpot": "end to end / output token",
    "schedule_lag": "client's own delay",
}

NOT_REPORTED = (
    "Cached tokens: vLLM reports them with --enable-prompt-tokens-details, which hybridserve serve sets with "
    "--set 'engine.extra_args={\"enable_prompt_tokens_details\":true}'; --replica-metrics counts them without it."
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text. The first columns (`text_columns`) are aligned left, the others right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text_columns: int = 1

    def html(self) -> str:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.head)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        note = f'<p class="dim">{escape(self.note)}</p>' if self.note else ""
        return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>{note}'

    def show(self) -> None:
        """Print it; 140 columns wide where the output is not a terminal."""
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(show_header=any(self.head), caption=self.note or None, caption_justify="left")
        for index, cell in enumerate(self.head):
            table.add_column(cell, justify="left" if index < self.text_columns else "right")
        for row in self.rows:
            table.add_row(*row)
        Console(width=None if Console().is_terminal else 140).print(table)


def number(value: float | None) -> str:
    """A value with four significant digits."""
    return "not measured" if value is None else f"{value:.4g}"


def milliseconds(spread: Distribution | None, ranks: Iterable[int], digits: int = 2) -> list[str]:
    """Percentiles in milliseconds; empty cells when nothing was measured."""
    return ["" if spread is None else f"{spread.percentile(rank) * 1000:,.{digits}f}" for rank in ranks]


def latency_table(summary: Summary) -> Table:
    """Percentiles of every measure; the unreliable ones are marked."""
    rows, unreliable = [], False
    for name, title in MEASURES.items():
        spread: Distribution | None = getattr(summary, name)
        if spread is None:
            continue
        marks = ["" if spread.is_reliable(rank) else " *" for rank in (50, 90, 95, 99)]
        unreliable |= any(marks)
        cells = [cell + mark for cell, mark in zip(milliseconds(spread, (50, 90, 95, 99)), marks, strict=True)]
        rows.append([title, f"{spread.mean * 1000:,.2f}", *cells, f"{spread.max * 1000:,.2f}"])
    note = "* fewer than ten values are beyond this percentile" if unreliable else ""
    return Table(["milliseconds", "mean", "p50", "p90", "p95", "p99", "max"], rows, note)


def counts_table(result: Result) -> Table:
    """Everything that is not a latency."""
    run, client = result.summary, result.health
    outcomes = ", ".join(f"{name} {count:,}" for name, count in run.outcomes.items()) or "none"
    cached = "not reported" if run.cached_tokens is None else f"{run.cached_tokens:,}"
    cells = {
        "requests attempted": f"{run.attempted:,}",
        "completed": f"{run.completed:,}",
        "outcomes": outcomes,
        "not counted: warm-up, unfinished": f"{result.left_out['warm_up']:,}, {result.left_out['unfinished']:,}",
        "duration": f"{run.duration:.2f} s",
        "requests/s": f"{run.request_throughput:.3f}",
        "output tokens/s": f"{run.output_throughput:,.1f}",
        "total tokens/s": f"{run.total_throughput:,.1f}",
        "goodput (requests/s)": f"{run.goodput:.3f}",
        "prompt tokens (cached)": f"{run.prompt_tokens:,} ({cached})",
        "output tokens (reasoning)": f"{run.output_tokens:,} ({run.reasoning_tokens:,})",
        "tokens per chunk": number(run.tokens_per_chunk),
        "concurrency, mean and peak": f"{run.mean_concurrency:.1f}, {run.peak_concurrency}",
        "tokens counted by the server": f"{run.usage_share:.0%}",
        "client: workers, core, loop lag p99": f"{client.workers}, {client.cpu:.0%}, {client.lag_p99 * 1000:.1f} ms",
    }
    if result.prefix_reuse is not None:
        cells |= reuse_cells(result.prefix_reuse)
    return Table(["", ""], list(cells.items()), NOT_REPORTED if run.completed and run.cached_tokens is None else "")


def reuse_cells(reuse: Mapping[str, float]) -> dict[str, str]:
    """Prompt tokens that could be reused, that hit, and that were lost by cause."""
    hit, reusable = reuse.get("hit", 0.0), reuse.get("reusable", 0.0)
    share = f" ({hit / reusable:.1%})" if reusable else ""
    lost = {cause: count for cause, count in reuse.items() if cause not in ("hit", "reusable") and count}
    return {
        "reusable prompt tokens, of these hit": f"{reusable:,.0f}, {hit:,.0f}{share}",
        "lost": ", ".join(f"{cause} {count:,.0f}" for cause, count in lost.items()) or "none",
    }


def slo_table(result: Result) -> Table:
    """Every objective with its limit."""
    rows = [
        [
            check.name,
            f"{'at least' if check.at_least else 'at most'} {number(check.limit)}",
            number(check.value),
            "kept" if check.kept else "MISSED",
        ]
        for check in result.checks
    ]
    return Table(["objective", "limit", "value", ""], rows)


def limits_text(result: Result) -> str:
    """What attainment counts: the limits of one request, and how many requests did not keep which."""
    slo, run = result.scenario.slo, result.summary
    limits = {name: value for name in ("ttft", "tpot", "e2e") if (value := getattr(slo, name)) is not None}
    names = ", ".join(f"{name} {value:g} s" for name, value in limits.items())
    what = f"keep every limit ({names})" if names else "did not fail; no limit is set for single requests"
    text = f"Attainment is the share of all attempted requests that {what}."
    if run.attainment is None:
        return text
    missed = ", ".join(f"{name} {run.missed.get(name, 0):,}" for name in [*limits, "failed"])
    interval = f"95 % interval {run.attainment.low:.1%} to {run.attainment.high:.1%}"
    return f"{text} Not kept, of {run.attempted:,} requests: {missed}; {interval}."


def first_details(result: Result) -> list[str]:
    """A line for each unexpected outcome: what was said about its first request."""
    found: dict[str, str] = {}
    for record in result.records:
        if record.detail and not record.as_expected:
            found.setdefault(record.outcome, record.detail)
    return [f"{outcome}, the first: {detail}" for outcome, detail in found.items()]


def parts_table(parts: Mapping[str, Summary], name: str, remarks: Mapping[str, str] | None = None) -> Table:
    """A row for each part of a run: a level of load, a kind of request. `remarks` adds a last column."""
    rows = [
        [
            part,
            f"{summary.attempted:,}",
            f"{summary.error_rate:.1%}",
            *milliseconds(summary.ttft, (50, 95), 1),
            *milliseconds(summary.tpot, (50, 95)),
            f"{summary.output_throughput:,.1f}",
            f"{summary.attainment.value:.1%}" if summary.attainment else "",
            *([remarks[part]] if remarks is not None else []),
        ]
        for part, summary in parts.items()
    ]
    head = [name, "requests", "errors", "TTFT p50 ms", "p95", "TPOT p50 ms", "p95", "tokens/s", "attainment"]
    return Table([*head, *([""] if remarks is not None else [])], rows)


def comparison_table(rows: Sequence[Row], names: tuple[str, str]) -> Table:
    """Every measure of two runs, with the ratio."""
    body = [
        [f"{row.name} ({row.unit})", number(row.a), number(row.b), ratio_text(row), "yes" if row.differs else ""]
        for row in rows
    ]
    return Table(["", *names, f"{names[0]} / {names[1]}, 95 % interval", "significant"], body)


def ratio_text(row: Row) -> str:
    """A ratio with its interval, if there is one."""
    if row.ratio is not None:
        return f"{row.ratio.value:.3f} ({row.ratio.low:.3f} to {row.ratio.high:.3f})"
    return "" if row.quotient is None else f"{row.quotient:.3f} (too short)"
