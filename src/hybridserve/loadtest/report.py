"""One page that needs nothing else: numbers as tables, charts as SVG inside, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hybridserve.errors import EnvironmentFault
from hybridserve.loadtest import charts
from hybridserve.loadtest.compare import Row
from hybridserve.loadtest.metrics import Summary, by_kind, by_level
from hybridserve.loadtest.run import Result
from hybridserve.loadtest.slo import Verdict
from hybridserve.loadtest.statistics import Distribution

MEASURES = {
    "ttft": "time to first token",
    "ttfa": "time to first answer token",
    "tpot": "time per output token",
    "itl": "inter-token latency",
    "e2e": "end to end",
    "norm_tpot": "end to end / output token",
    "schedule_lag": "client's own delay",
}
VERDICTS: Mapping[Verdict, str] = {
    "kept": "The SLO is kept.",
    "missed": "The SLO is missed.",
    "void": "The run is void: the client was at fault.",
}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.25rem .7rem;border-bottom:1px solid #d8dee4;text-align:right}
td:first-child,th:first-child{text-align:left}.kept{color:#116329}.missed{color:#a40e26}.void{color:#9a6700}
svg{max-width:100%;height:auto}footer{color:#57606a;font-size:13px}
"""


def write_report(result: Result, out: Path, title: str) -> str | None:
    """report.html, and charts/*.png. Without matplotlib the page has no charts, and the reason comes back."""
    limits = result.scenario.slo.limits
    levels, kinds = by_level(result.records, limits), by_kind(result.records, limits)
    note, drawings = None, {}
    try:
        drawings = charts.run_charts(result.records, levels, kinds)
        charts.save(drawings, out / "charts")
    except EnvironmentFault as fault:
        note = f"{fault.what}: {fault.fix}"
    parts = [
        f'<p class="{result.verdict}"><strong>{VERDICTS[result.verdict]}</strong></p>',
        f"<p>{escape(result.scenario.about)} Model {escape(result.model)}.</p>",
        "".join(f'<p class="void">{escape(fault)}</p>' for fault in result.health.faults),
        "<p>It was interrupted: these are partial results.</p>" if result.interrupted else "",
        "<h2>SLO</h2>",
        table(
            ["promise", "limit", "value", ""],
            [[one.name, _show(one.limit), _show(one.value), "kept" if one.kept else "missed"] for one in result.checks],
        ),
        "<h2>Latency (ms)</h2>",
        latency_table(result.summary),
        "<h2>Counts and rates</h2>",
        table(["", ""], [[name, value] for name, value in counts(result).items()]),
    ]
    if len(kinds) > 1:
        parts += ["<h2>By kind</h2>", parts_table(kinds)]
    if len(levels) > 1:
        parts += ["<h2>By load</h2>", parts_table({f"{level:g}": one for level, one in levels.items()})]
    parts += ["<h2>Charts</h2>", f"<p>{escape(note)}</p>" if note else "", *map(charts.svg, drawings.values())]
    (out / "report.html").write_text(page(title, parts))
    return note


def write_comparison(rows: Sequence[Row], a: str, b: str, sides: Mapping[str, Summary], out: Path) -> str | None:
    """compare.html and compare.png in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    note, drawing = None, ""
    try:
        figure = charts.compare_chart(rows, a, b)
        figure.savefig(out / "compare.png", dpi=130)
        drawing = charts.svg(figure)
    except EnvironmentFault as fault:
        note = f"{fault.what}: {fault.fix}"
    body = [[row.name, _show(row.a), _show(row.b), ratio_words(row), "yes" if row.differs else ""] for row in rows]
    parts = [table(["", a, b, f"{a} / {b}, 95 % interval", "more than luck"], body), drawing]
    parts += [f"<h2>{escape(name)}</h2>{latency_table(side)}" for name, side in sides.items()]
    (out / "compare.html").write_text(page(f"{a} against {b}", parts))
    return note


def counts(result: Result) -> dict[str, str]:
    """Names and values of what is no latency."""
    one, client = result.summary, result.health
    return {
        "requests attempted": f"{one.attempted:,}",
        "completed": f"{one.completed:,}",
        "outcomes": ", ".join(f"{name} {count:,}" for name, count in one.outcomes.items()) or "none",
        "duration": f"{one.duration:.2f} s",
        "requests/s": f"{one.request_throughput:.3f}",
        "output tokens/s": f"{one.output_throughput:,.1f}",
        "total tokens/s": f"{one.total_throughput:,.1f}",
        "goodput (requests/s)": f"{one.goodput:.3f}",
        "prompt tokens (of them cached)": f"{one.prompt_tokens:,} ({one.cached_tokens:,})",
        "output tokens (of them reasoning)": f"{one.output_tokens:,} ({one.reasoning_tokens:,})",
        "tokens per chunk": _show(one.tokens_per_chunk),
        "concurrency, mean and peak": f"{one.mean_concurrency:.1f}, {one.peak_concurrency}",
        "counted by the server": f"{one.usage_share:.0%}",
        "client: workers, core, loop lag p99": f"{client.workers}, {client.cpu:.0%}, {client.lag_p99 * 1000:.1f} ms",
    }


def latency_table(summary: Summary) -> str:
    """Percentiles; those that rest on fewer than ten requests beyond them are marked."""
    rows, doubtful = [], False
    for name, words in MEASURES.items():
        spread: Distribution | None = getattr(summary, name)
        if spread is not None:
            cells = []
            for rank in (50, 90, 95, 99):
                doubtful |= not spread.sure(rank)
                cells.append(f"{getattr(spread, f'p{rank}') * 1000:,.2f}{'' if spread.sure(rank) else ' *'}")
            rows.append([words, f"{spread.mean * 1000:,.2f}", *cells, f"{spread.max * 1000:,.2f}"])
    note = "<p>* fewer than ten requests lie beyond this percentile</p>" if doubtful else ""
    return table(["", "mean", "p50", "p90", "p95", "p99", "max"], rows) + note


def parts_table(parts: Mapping[str, Summary]) -> str:
    """One row a part."""
    rows = []
    for name, one in parts.items():
        ttft, tpot = one.ttft, one.tpot
        rows.append(
            [
                name,
                f"{one.attempted:,}",
                f"{one.error_rate:.1%}",
                f"{ttft.p50 * 1000:,.1f} / {ttft.p95 * 1000:,.1f}" if ttft else "",
                f"{tpot.p50 * 1000:,.2f} / {tpot.p95 * 1000:,.2f}" if tpot else "",
                f"{one.output_throughput:,.1f}",
                f"{one.attainment.value:.1%}" if one.attainment else "",
            ]
        )
    return table(["", "requests", "errors", "TTFT p50 / p95", "TPOT p50 / p95", "tokens/s", "goodput"], rows)


def ratio_words(row: Row) -> str:
    """A ratio and its interval."""
    return "" if row.ratio is None else f"{row.ratio.value:.3f} ({row.ratio.low:.3f} to {row.ratio.high:.3f})"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; every cell is escaped."""
    top = "".join(f"<th>{escape(str(cell))}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(parts)}"
        "<footer>Definitions: docs/load-testing.md. Latency counts from the intended start.</footer></body></html>\n"
    )


def _show(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
