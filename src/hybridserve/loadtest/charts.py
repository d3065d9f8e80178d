"""Charts of runs, as matplotlib figures: the same ones go into the page and beside it as PNG."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from hybridserve.errors import EnvironmentFault
from hybridserve.loadtest.compare import Row
from hybridserve.loadtest.metrics import Summary, saturation, tokens_over_time
from hybridserve.loadtest.request_record import Record
from hybridserve.loadtest.statistics import Interval
from hybridserve.quantiles import interpolated

_RANKS = {50: "#4c78a8", 95: "#f58518", 99: "#e45756"}
_BINS = 30
_OK, _FAILED = "#54a24b", ("#e45756", "#f58518", "#b279a2", "#9d755d", "#eeca3b", "#72b7b2")


def new_figure(title: str, across: str, up: str) -> tuple[Any, Any]:
    """An empty chart.

    Raises:
        EnvironmentFault: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise EnvironmentFault(
            "report", "charts need matplotlib, which is not installed", "pip install matplotlib"
        ) from None
    figure = Figure(figsize=(6.4, 3.3), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set(xlabel=across, ylabel=up)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def run_charts(
    records: Sequence[Record], levels: Mapping[float, Summary], kinds: Mapping[str, Summary]
) -> dict[str, Any]:
    """Charts of one run, by file name."""
    counted = [one for one in records if not one.warm_up]
    charts = {
        "ttft-over-time": _over_time(counted, "Time to first token", _by_request(counted, "ttft")),
        "itl-over-time": _over_time(counted, "Inter-token latency", _gaps(counted)),
        "tpot-over-time": _over_time(counted, "Time per output token", _by_request(counted, "tpot")),
        "e2e-over-time": _over_time(counted, "End to end", _by_request(counted, "e2e")),
        "tokens-over-time": _tokens(counted),
        "concurrency-over-time": _concurrency(counted),
        "outcomes-over-time": _outcomes(counted),
    }
    if len(levels) > 1:
        charts |= level_charts(levels, "load (users or requests/s)")
    if len(kinds) > 1:
        charts |= _by_kind(kinds)
    return charts


def level_charts(levels: Mapping[float, Summary], across: str, name: str = "") -> dict[str, Any]:
    """Latency and throughput over load; `name` says of what."""
    charts = {}
    tail = f", {name}" if name else ""
    for measure, title in (("ttft", "Time to first token over load"), ("tpot", "Time per output token over load")):
        figure, axes = new_figure(title + tail, across, "ms")
        for rank, color in _RANKS.items():
            points = [
                (x, getattr(spread, f"p{rank}") * 1000)
                for x, one in levels.items()
                if (spread := getattr(one, measure))
            ]
            _line(axes, points, marker="o", markersize=4, color=color, label=f"p{rank}")
        _levels(axes, levels)
        axes.legend(frameon=False, ncols=3, loc="lower right")
        charts[f"{measure}-over-load"] = figure
    figure, axes = new_figure("Throughput over load" + tail, across, "output tokens/s")
    _line(axes, [(x, one.output_throughput) for x, one in levels.items()], marker="o", markersize=4)
    if (full := saturation(levels)) is not None:
        axes.axvline(full, color="black", linewidth=0.8, linestyle="--")
        axes.annotate(f" saturated at {full:g}", (full, 0), xytext=(2, 4), textcoords="offset points", fontsize=9)
    _levels(axes, levels)
    charts["throughput-over-load"] = figure
    return charts


def grid_chart(curves: Mapping[str, Mapping[float, Summary]]) -> Any:
    """Throughput against concurrency, one line for each prompt and output length."""
    figure, axes = new_figure("Throughput by prompt/output length", "concurrency", "output tokens/s")
    for name, levels in curves.items():
        _line(axes, [(x, one.output_throughput) for x, one in levels.items()], marker="o", markersize=4, label=name)
    _levels(axes, {level: None for levels in curves.values() for level in levels})
    axes.legend(frameon=False)
    return figure


def compare_charts(
    rows: Sequence[Row], records: Mapping[str, Sequence[Record]], names: tuple[str, str]
) -> dict[str, Any]:
    """Ratios with their intervals around 1, and how each measure is spread in both runs."""
    a, b = names
    figure, axes = new_figure(f"{a} / {b}", "ratio, 95 % interval", "")
    shown = [row for row in rows if row.ratio is not None]
    for place, row in enumerate(reversed(shown)):
        ratio = row.ratio
        assert ratio is not None
        reach = [[max(0.0, ratio.value - ratio.low)], [max(0.0, ratio.high - ratio.value)]]
        axes.errorbar(
            [ratio.value], [place], xerr=reach, fmt="o", capsize=3, color="#e45756" if row.differs else "#888"
        )
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [row.name for row in reversed(shown)])
    charts = {"ratios": figure}
    for measure, title in (("ttft", "Time to first token"), ("tpot", "Time per output token"), ("e2e", "End to end")):
        figure, axes = new_figure(f"{title}: share of requests within", "ms", "share")
        for name, side in records.items():
            whole = [one for one in side if one.ok and not one.warm_up]
            values = sorted(value * 1000 for one in whole if (value := getattr(one, measure)) is not None)
            axes.step(values, [(at + 1) / len(values) for at in range(len(values))], where="post", label=name)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.02)
        axes.legend(frameon=False)
        charts[f"{measure}-distribution"] = figure
    return charts


def ratio_charts(
    ratios: Mapping[str, Mapping[str, Mapping[float, Interval]]], names: tuple[str, str]
) -> dict[str, Any]:
    """Two operating curves: ratio over concurrency by measure, one line for each kind of request."""
    charts = {}
    for measure, kinds in ratios.items():
        figure, axes = new_figure(f"{measure}: {names[0]} / {names[1]}", "concurrency", "ratio, 95 % interval")
        for kind, points in kinds.items():
            at = sorted(points)
            reach = [[points[x].value - points[x].low for x in at], [points[x].high - points[x].value for x in at]]
            axes.errorbar(at, [points[x].value for x in at], yerr=reach, marker="o", capsize=3, label=kind)
        axes.axhline(1.0, color="black", linewidth=0.8)
        _levels(axes, {level: None for points in kinds.values() for level in points})
        axes.legend(frameon=False)
        charts["ratio-" + measure.replace(" ", "-")] = figure
    return charts


def svg(figure: Any) -> str:
    """As markup that stands in a page."""
    out = io.StringIO()
    figure.savefig(out, format="svg")
    text = out.getvalue()
    return text[text.index("<svg") :].replace("<svg", '<svg role="img"', 1)


def save(charts: Mapping[str, Any], folder: Path) -> None:
    """As PNG files."""
    folder.mkdir(exist_ok=True)
    for name, figure in charts.items():
        figure.savefig(folder / f"{name}.png", dpi=130)


def _line(axes: Any, points: Sequence[tuple[float, float]], **style: Any) -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], **style)


def _levels(axes: Any, levels: Mapping[float, Any]) -> None:
    """From 0 up; levels that grow by factors stand apart evenly."""
    ticks = sorted(levels)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
    if len(ticks) > 2 and ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]:
        axes.set_xscale("log", base=2)
    if len(ticks) <= 9:
        axes.set_xticks(ticks, [f"{one:g}" for one in ticks])
        axes.minorticks_off()


def _by_request(records: Sequence[Record], measure: str) -> list[tuple[float, float]]:
    """(instant of the intended start, seconds)."""
    found = ((one.intended, getattr(one, measure)) for one in records if one.ok)
    return [(at, value) for at, value in found if value is not None]


def _gaps(records: Sequence[Record]) -> list[tuple[float, float]]:
    """(instant of a chunk's arrival, seconds since the one before): a stall shows when it was."""
    return [(one.sent + later, later - earlier) for one in records if one.ok for earlier, later in pairwise(one.chunks)]


def _over_time(records: Sequence[Record], title: str, points: Sequence[tuple[float, float]]) -> Any:
    figure, axes = new_figure(f"{title} over time", "seconds since the start", "ms")
    bins: dict[int, list[float]] = defaultdict(list)
    start, width = _bins(records)
    for at, value in points:
        bins[int((at - start) / width)].append(value * 1000)
    for rank, color in reversed(_RANKS.items()):
        line = [(width * (at + 0.5), interpolated(sorted(values), rank / 100)) for at, values in sorted(bins.items())]
        _line(axes, line, marker=".", color=color, label=f"p{rank}")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    axes.legend(frameon=False, ncols=3, loc="upper right")
    return figure


def _tokens(records: Sequence[Record]) -> Any:
    figure, axes = new_figure("Output tokens over time", "seconds since the start", "tokens/s")
    # The last second is a part of one.
    points = tokens_over_time(records)[:-1] or tokens_over_time(records)
    axes.step([at for at, _ in points], [rate for _, rate in points], where="post")
    axes.set_ylim(bottom=0)
    return figure


def _concurrency(records: Sequence[Record]) -> Any:
    figure, axes = new_figure("Requests out at once", "seconds since the start", "requests")
    start, _ = _bins(records)
    edges = sorted([(one.sent, 1) for one in records] + [(one.sent + one.end, -1) for one in records])
    axes.step([at - start for at, _ in edges], list(accumulate(step for _, step in edges)), where="post", linewidth=0.9)
    axes.set_ylim(bottom=0)
    return figure


def _outcomes(records: Sequence[Record]) -> Any:
    """What was as it should be is green."""
    figure, axes = new_figure("How requests ended", "seconds since the start", "requests")
    start, width = _bins(records)
    bottom: Counter[int] = Counter()
    groups: Counter[tuple[bool, str]] = Counter((not one.as_expected, str(one.outcome)) for one in records)
    failed = 0
    for wrong, name in sorted(groups, key=lambda key: (key[0], -groups[key])):
        chosen = [one for one in records if (not one.as_expected, str(one.outcome)) == (wrong, name)]
        counts = Counter(int((one.intended - start) / width) for one in chosen)
        places = sorted(counts)
        axes.bar(
            [at * width for at in places],
            [counts[at] for at in places],
            width * 0.9,
            [bottom[at] for at in places],
            align="edge",
            label=name,
            color=_FAILED[failed % len(_FAILED)] if wrong else _OK,
            alpha=1.0 if wrong or name == "ok" else 0.5,
        )
        failed += wrong
        bottom.update(counts)
    if groups:
        axes.legend(frameon=False)
    return figure


def _by_kind(kinds: Mapping[str, Summary]) -> dict[str, Any]:
    """Bars for each kind of request: the lengths of a grid, reasoning on and off."""
    charts = {}
    figure, axes = new_figure("Output throughput by kind of request", "", "output tokens/s")
    axes.bar(list(kinds), [one.output_throughput for one in kinds.values()], width=0.6)
    charts["throughput-by-kind"] = figure
    for measure, title in (("ttft", "Time to first token"), ("tpot", "Time per output token")):
        figure, axes = new_figure(f"{title} by kind of request", "", "ms")
        for place, (rank, color) in enumerate(_RANKS.items()):
            heights = [
                getattr(spread, f"p{rank}") * 1000 if (spread := getattr(one, measure)) else 0 for one in kinds.values()
            ]
            axes.bar(
                [at + 0.25 * (place - 1) for at in range(len(kinds))], heights, 0.23, color=color, label=f"p{rank}"
            )
        axes.set_xticks(range(len(kinds)), list(kinds))
        axes.legend(frameon=False)
        charts[f"{measure}-by-kind"] = figure
    return charts


def _bins(records: Sequence[Record]) -> tuple[float, float]:
    """Start, and width of a bin in seconds."""
    if not records:
        return 0.0, 1.0
    start = min(one.intended for one in records)
    return start, max(0.5, (max(one.intended for one in records) - start) / _BINS)
