"""One page that needs nothing else: numbers as tables, charts as SVG inside, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import yaml

from hybridserve import __version__
from hybridserve.errors import EnvironmentFault
from hybridserve.loadtest import charts
from hybridserve.loadtest.compare import Row
from hybridserve.loadtest.metrics import Summary, by_kind, by_level, saturation
from hybridserve.loadtest.runner import Result, measured_span
from hybridserve.loadtest.slo import SLOStatus
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
VERDICTS: Mapping[SLOStatus, str] = {
    "kept": "The SLO is kept.",
    "missed": "The SLO is missed.",
    "void": "The run is void: the client was at fault.",
}
_STYLE = """
:root{--ink:#1b1f24;--dim:#57606a;--line:#d8dee4;--soft:#f6f8fa}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:1.5rem;color:var(--ink);background:#fff}
h1{margin:0 0 .3rem;font-size:1.6rem}h2{margin:2.2rem 0 .6rem;font-size:1.15rem}
p{margin:.4rem 0}.dim,footer{color:var(--dim);font-size:13px}
.verdict{padding:.7rem 1rem;border-left:5px solid;background:var(--soft);margin:1rem 0}
.kept{color:#116329}.missed{color:#a40e26}.void{color:#9a6700}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(12rem,1fr));gap:.8rem;margin:1rem 0}
.tiles div{border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem}
.tiles b{display:block;font-size:1.15rem;font-weight:600}.tiles span{color:var(--dim);font-size:13px}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left}th{color:var(--dim);font-weight:600}
.gallery{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:.8rem}
.gallery figure{margin:0;border:1px solid var(--line);border-radius:6px;padding:.4rem}
svg{width:100%;height:auto;display:block}
pre{background:var(--soft);padding:.8rem;overflow-x:auto;font-size:13px}footer{margin-top:2.5rem}
@media(max-width:30rem){.gallery{grid-template-columns:1fr}}
"""


def write_report(result: Result, out: Path, title: str) -> str | None:
    """report.html, and charts/*.png. Without matplotlib the page has no charts, and the reason comes back."""
    limits = result.scenario.slo.limits
    levels, kinds = by_level(result.records, limits), by_kind(result.records, limits)
    why, drawings = None, {}
    try:
        drawings = charts.run_charts(result.records, levels, kinds)
        charts.save(drawings, out / "charts")
    except EnvironmentFault as fault:
        why = f"{fault.what}: {fault.fix}"
    parts = [
        note(result.scenario.about),
        f'<p class="dim">{escape(_origin(result))}</p>',
        _verdict(result),
        _tiles(result.summary),
        heading("SLO"),
        table(
            ["promise", "limit", "value", ""],
            [[one.name, _show(one.limit), _show(one.value), "kept" if one.kept else "missed"] for one in result.checks],
        ),
        note(_limits(result)),
        heading("Charts"),
        note(why) if why else "",
        gallery(drawings),
        heading("Latency (ms)"),
        latency_table(result.summary),
        heading("Counts and rates"),
        table(["", ""], [[name, value] for name, value in counts(result).items()]),
    ]
    if len(kinds) > 1:
        parts += [heading("By kind"), parts_table(kinds, "kind")]
    if len(levels) > 1:
        parts += [heading("By load"), parts_table({f"{level:g}": one for level, one in levels.items()}, "load")]
        full = saturation(levels)
        parts.append(
            note(f"Saturated at {full:g}: more load brought less than 5 % more tokens.")
            if full is not None
            else note("Not saturated: the highest load brought the most tokens.")
        )
    scenario = yaml.safe_dump(result.scenario.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    parts.append(f"<h2>Scenario</h2><details><summary>as it was run</summary><pre>{escape(scenario)}</pre></details>")
    (out / "report.html").write_text(page(title, parts))
    return why


def write_comparison(rows: Sequence[Row], sides: Mapping[str, Result], notes: Sequence[str], out: Path) -> str | None:
    """compare.html, and charts/*.png in `out`."""
    a, b = sides
    why, drawings = None, {}
    try:
        drawings = charts.compare_charts(rows, {name: side.records for name, side in sides.items()}, (a, b))
        charts.save(drawings, out / "charts")
    except EnvironmentFault as fault:
        why = f"{fault.what}: {fault.fix}"
    body = [[row.name, _show(row.a), _show(row.b), ratio_words(row), "yes" if row.differs else ""] for row in rows]
    parts = [f'<p class="verdict void">{escape(one)}</p>' for one in notes]
    parts += [table(["", a, b, f"{a} / {b}, 95 % interval", "more than luck"], body), gallery(drawings)]
    parts += [note(why)] if why else []
    for name, side in sides.items():
        parts += [heading(name), f'<p class="dim">{escape(_origin(side))}</p>', latency_table(side.summary)]
    (out / "compare.html").write_text(page(f"{a} against {b}", parts))
    return why


def _origin(result: Result) -> str:
    """Where, when, and with what."""
    start = datetime.fromtimestamp(measured_span(result.records)[0], UTC)
    return (
        f"Model {result.model} at {result.url}; first request {start:%Y-%m-%d %H:%M:%S} UTC; "
        f"seed {result.scenario.seed}; hybridserve {__version__}."
    )


def _verdict(result: Result) -> str:
    words = [f"<strong>{VERDICTS[result.verdict]}</strong>", *map(escape, result.health.faults)]
    if result.interrupted:
        words.append("It was interrupted: these are partial results.")
    return f'<div class="verdict {result.verdict}">{"<br>".join(words)}</div>'


def _tiles(one: Summary) -> str:
    """The six numbers that are asked for first."""
    cells = {
        "output tokens/s": f"{one.output_throughput:,.1f}",
        "time to first token, p50 / p99": _pair(one.ttft, 1),
        "time per output token, p50 / p99": _pair(one.tpot, 2),
        "end to end, p50 / p99": _pair(one.e2e, 0),
        "of requests within the limits": f"{one.attainment.value:.1%}" if one.attainment else "not measured",
        "requests, of them failed": f"{one.attempted:,}, {one.attempted - one.as_expected:,}",
    }
    tiles = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in cells.items())
    return f'<div class="tiles">{tiles}</div>'


def _pair(spread: Distribution | None, digits: int) -> str:
    return "not measured" if spread is None else f"{spread.p50 * 1000:,.{digits}f} / {spread.p99 * 1000:,.{digits}f} ms"


def _limits(result: Result) -> str:
    slo = result.scenario.slo
    limits = {name: value for name in ("ttft", "tpot", "e2e") if (value := getattr(slo, name)) is not None}
    share = result.summary.attainment
    sure = f" 95 % interval {share.low:.1%} to {share.high:.1%}." if share is not None else ""
    if not limits:
        return "No limit for single requests: goodput is the share that did not fail." + sure
    words = ", ".join(f"{name} {value:g} s" for name, value in limits.items())
    return f"Goodput is the share of all attempted requests that kept at once: {words}.{sure}"


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
    words = '<p class="dim">* fewer than ten values lie beyond this percentile</p>' if doubtful else ""
    return table(["", "mean", "p50", "p90", "p95", "p99", "max"], rows) + words


def parts_table(parts: Mapping[str, Summary], what: str, verdicts: Mapping[str, str] | None = None) -> str:
    """One row a part; `verdicts` adds a last column."""
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
                *([verdicts[name]] if verdicts is not None else []),
            ]
        )
    head = [what, "requests", "errors", "TTFT p50 / p95 ms", "TPOT p50 / p95 ms", "tokens/s", "goodput"]
    return table([*head, *([""] if verdicts is not None else [])], rows)


def ratio_words(row: Row) -> str:
    """A ratio and its interval, or that there is none."""
    if row.ratio is not None:
        return f"{row.ratio.value:.3f} ({row.ratio.low:.3f} to {row.ratio.high:.3f})"
    return "" if row.quotient is None else f"{row.quotient:.3f} (too short)"


def heading(text: str) -> str:
    """Of a part."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """One paragraph."""
    return f"<p>{escape(text)}</p>"


def gallery(drawings: Mapping[str, Any]) -> str:
    """Charts side by side."""
    return f'<div class="gallery">{"".join(f"<figure>{charts.svg(one)}</figure>" for one in drawings.values())}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; every cell is escaped."""
    top = "".join(f"<th>{escape(str(cell))}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(parts)}"
        "<footer>Definitions: docs/how-to/load-test.md. Latency is measured from the intended start.</footer>"
        "</body></html>\n"
    )


def _show(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
