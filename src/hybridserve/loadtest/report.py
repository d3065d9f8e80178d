"""HTML reports: one file with tables and SVG charts, no script, no external resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import yaml

from hybridserve import __version__
from hybridserve.errors import not_installed
from hybridserve.loadtest import charts
from hybridserve.loadtest.compare import Row
from hybridserve.loadtest.metrics import Summary, by_kind, by_level, saturation
from hybridserve.loadtest.runner import Result, measured_span
from hybridserve.loadtest.statistics import Distribution
from hybridserve.loadtest.tables import (
    Table,
    comparison_table,
    counts_table,
    first_details,
    latency_table,
    limits_text,
    milliseconds,
    parts_table,
    slo_table,
)
from hybridserve.loadtest.verdict import verdict_text

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
Block = str | Table | Callable[[], Mapping[str, Any]]
"""HTML, a table, or charts by name."""


def write_page(path: Path, title: str, blocks: Sequence[Block]) -> str | None:
    """Write an HTML page, and its charts as PNG files beside it.

    Without matplotlib the page has no charts, and the reason is returned.
    """
    parts, problem = [], None
    for block in blocks:
        if isinstance(block, str):
            parts.append(block)
        elif isinstance(block, Table):
            parts.append(block.html())
        else:
            try:
                figures = block()
                charts.save(figures, path.parent / "charts")
                drawings = "".join(f"<figure>{charts.svg(figure)}</figure>" for figure in figures.values())
                parts.append(f'<div class="gallery">{drawings}</div>')
            except ModuleNotFoundError as missing:
                if (fault := not_installed(missing)) is None:
                    raise
                problem = f"no charts: {fault.what}; {fault.fix}"
                parts.append(paragraph(problem))
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(parts)}"
        "<footer>Definitions: docs/how-to/load-test.md. Latency is measured from the intended start.</footer>"
        "</body></html>\n"
    )
    return problem


def write_report(result: Result, out: Path, title: str) -> str | None:
    """report.html and charts of one run; see `write_page`."""
    limits = result.scenario.slo.limits
    levels, kinds = by_level(result.records, limits), by_kind(result.records, limits)
    blocks: list[Block] = [
        paragraph(result.scenario.about),
        _origin(result),
        _verdict(result),
        _tiles(result.summary),
        heading("SLO"),
        slo_table(result),
        paragraph(limits_text(result)),
        *map(paragraph, first_details(result)),
        heading("Charts"),
        lambda: charts.run_charts(result.records, levels, kinds),
        heading("Latency"),
        latency_table(result.summary),
        heading("Counts and rates"),
        counts_table(result),
    ]
    if len(kinds) > 1:
        blocks += [heading("By kind"), parts_table(kinds, "kind")]
    if len(levels) > 1:
        full = saturation(levels)
        blocks += [
            heading("By load"),
            parts_table({f"{level:g}": summary for level, summary in levels.items()}, "load"),
            paragraph(
                f"Saturated at {full:g}: more load adds less than 5 % throughput."
                if full is not None
                else "Not saturated: the highest load has the highest throughput."
            ),
        ]
    scenario = yaml.safe_dump(result.scenario.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    blocks.append(f"<h2>Scenario</h2><details><summary>as it ran</summary><pre>{escape(scenario)}</pre></details>")
    return write_page(out / "report.html", title, blocks)


def write_levels(
    out: Path,
    title: str,
    notes: Sequence[str],
    curves: Mapping[str, Mapping[float, Summary]],
    axis: str,
    remarks: Mapping[str, Mapping[str, str]],
) -> None:
    """report.html and charts of several levels of load, for each kind of request."""

    def figures() -> dict[str, Any]:
        found = {"throughput-by-length": charts.grid_chart(curves)} if len(curves) > 1 else {}
        for name, levels in curves.items():
            for key, figure in charts.level_charts(levels, axis, name).items():
                # With several curves one chart shows the throughput of all.
                if len(curves) == 1 or key != "throughput-over-load":
                    found[f"{name.replace('/', '-')}-{key}".lstrip("-")] = figure
        return found

    blocks: list[Block] = [*map(paragraph, notes), figures]
    for name, levels in curves.items():
        named = {f"{level:.4g}": summary for level, summary in levels.items()}
        blocks += [heading(name) if name else "", parts_table(named, axis, remarks[name])]
    write_page(out / "report.html", title, blocks)


def write_comparison(rows: Sequence[Row], sides: Mapping[str, Result], notes: Sequence[str], out: Path) -> str | None:
    """compare.html and charts of two runs; see `write_page`."""
    a, b = sides
    records = {name: side.records for name, side in sides.items()}
    blocks: list[Block] = [f'<p class="verdict void">{escape(line)}</p>' for line in notes]
    blocks += [comparison_table(rows, (a, b)), lambda: charts.compare_charts(rows, records, (a, b))]
    for name, side in sides.items():
        blocks += [heading(name), _origin(side), latency_table(side.summary)]
    return write_page(out / "compare.html", f"{a} and {b}", blocks)


def heading(text: str) -> str:
    """The heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{escape(text)}</p>"


def _origin(result: Result) -> str:
    """Server, time and versions of a run."""
    start = datetime.fromtimestamp(measured_span(result.records)[0], UTC)
    return (
        f'<p class="dim">Model {escape(result.model)} at {escape(result.url)}; first request {start:%Y-%m-%d %H:%M:%S} '
        f"UTC; seed {result.scenario.seed}; hybridserve {__version__}.</p>"
    )


def _verdict(result: Result) -> str:
    verdict = escape(verdict_text(result.verdict, result.checks))
    lines = [f"<strong>{verdict}</strong>", *map(escape, result.health.faults)]
    if result.interrupted:
        lines.append("The run was interrupted: these are partial results.")
    return f'<div class="verdict {result.verdict}">{"<br>".join(lines)}</div>'


def _tiles(summary: Summary) -> str:
    """The six most important numbers."""

    def pair(spread: Distribution | None, digits: int) -> str:
        return "not measured" if spread is None else " / ".join(milliseconds(spread, (50, 99), digits)) + " ms"

    cells = {
        "output tokens/s": f"{summary.output_throughput:,.1f}",
        "time to first token, p50 / p99": pair(summary.ttft, 1),
        "time per output token, p50 / p99": pair(summary.tpot, 2),
        "end to end, p50 / p99": pair(summary.e2e, 0),
        "of requests within the limits": f"{summary.attainment.value:.1%}" if summary.attainment else "not measured",
        "requests, failed": f"{summary.attempted:,}, {summary.attempted - summary.as_expected:,}",
    }
    tiles = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in cells.items())
    return f'<div class="tiles">{tiles}</div>'
