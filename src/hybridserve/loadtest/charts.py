"""Charts of runs as matplotlib figures, for the HTML report and as PNG files."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from hybridserve.loadtest.compare import Row
from hybridserve.loadtest.metrics import Summary, saturation, tokens_over_time
from hybridserve.loadtest.request_record import Record
from hybridserve.loadtest.statistics import Interval
from hybridserve.quantiles import interpolated

_RANKS = (50, 95, 99)
_COLORS = {"p50": "#4c78a8", "p95": "#f58518", "p99": "#e45756"}
_BINS = 30
_OK, _FAILED = "#54a24b", ("#e45756", "#f58518", "#b279a2", "#9d755d", "#eeca3b", "#72b7b2")
_TITLES = {"ttft": "Time to first token", "tpot": "Time per output token", "e2e": "End to end"}
_TIME = "seconds since the start"
Points = Sequence[tuple[float, float]]


def new_figure(title: str, across: str, up: str) -> tuple[Any, Any]:
    """An empty chart.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.3), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set(xlabel=across, ylabel=up)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def line_chart(
    title: str, across: str, up: str, series: Mapping[str, Points], levels: Iterable[float] = (), **style: Any
) -> Any:
    """A chart with a line for each series of (x, y) points; `levels` are the ticks of the x axis."""
    figure, axes = new_figure(title, across, up)
    for label, points in series.items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, color=_COLORS.get(label), **style)
    _set_axes(axes, levels)
    if len(series) > 1:
        long = max(map(len, series)) > 20
        axes.legend(frameon=False, ncols=1 if long else 3, fontsize=7 if long else None)
    return figure


def run_charts(
    records: Sequence[Record], levels: Mapping[float, Summary], kinds: Mapping[str, Summary]
) -> dict[str, Any]:
    """Charts of one run, by file name."""
    counted = [record for record in records if not record.warm_up]
    complete = [record for record in counted if record.ok]
    charts = {}
    for name, title in _TITLES.items():
        points = [(record.intended, value) for record in complete if (value := getattr(record, name)) is not None]
        charts[f"{name}-over-time"] = _over_time(counted, title, points)
    # A gap is placed at its end, so that a stall is visible when it happened.
    gaps = [(record.sent + end, end - start) for record in complete for start, end in pairwise(record.chunks)]
    start, _ = _bins(counted)
    edges = sorted([(record.sent, 1) for record in counted] + [(record.sent + record.end, -1) for record in counted])
    opened = list(zip((time - start for time, _ in edges), accumulate(step for _, step in edges), strict=True))
    # The last second is incomplete.
    tokens = tokens_over_time(counted)[:-1] or tokens_over_time(counted)
    steps: dict[str, Any] = {"drawstyle": "steps-post", "linewidth": 0.9}
    charts |= {
        "itl-over-time": _over_time(counted, "Inter-token latency", gaps),
        "tokens-over-time": line_chart("Output tokens over time", _TIME, "tokens/s", {"": tokens}, **steps),
        "concurrency-over-time": line_chart("Open requests", _TIME, "requests", {"": opened}, **steps),
        "outcomes-over-time": _outcomes(counted),
    }
    if len(levels) > 1:
        charts |= level_charts(levels, "load (users or requests/s)")
    if len(kinds) > 1:
        charts |= _kind_charts(kinds)
    return charts


def level_charts(levels: Mapping[float, Summary], across: str, name: str = "") -> dict[str, Any]:
    """Latency and throughput over load; `name` is added to the titles."""
    suffix = f" over load, {name}" if name else " over load"
    style: dict[str, Any] = {"levels": levels, "marker": "o", "markersize": 4}
    charts = {}
    for measure in ("ttft", "tpot"):
        series = {f"p{rank}": _percentiles(levels, measure, rank) for rank in _RANKS}
        charts[f"{measure}-over-load"] = line_chart(_TITLES[measure] + suffix, across, "ms", series, **style)
    figure = line_chart("Throughput" + suffix, across, "output tokens/s", {"": _throughput(levels)}, **style)
    if (full := saturation(levels)) is not None:
        figure.axes[0].axvline(full, color="black", linewidth=0.8, linestyle="--")
        place = {"xytext": (2, 4), "textcoords": "offset points", "fontsize": 9}
        figure.axes[0].annotate(f" saturated at {full:g}", (full, 0), **place)
    return charts | {"throughput-over-load": figure}


def grid_chart(curves: Mapping[str, Mapping[float, Summary]]) -> Any:
    """Throughput over concurrency, a line for each prompt and output length."""
    series = {name: _throughput(levels) for name, levels in curves.items()}
    ticks = {level for levels in curves.values() for level in levels}
    title = "Throughput by prompt/output length"
    return line_chart(title, "concurrency", "output tokens/s", series, ticks, marker="o", markersize=4)


def compare_charts(
    rows: Sequence[Row], records: Mapping[str, Sequence[Record]], names: tuple[str, str]
) -> dict[str, Any]:
    """Ratios with their intervals, and the distribution of each measure in both runs."""
    figure, axes = new_figure(f"{names[0]} / {names[1]}", "ratio, 95 % interval", "")
    shown = [(row, row.ratio) for row in reversed(rows) if row.ratio is not None]
    for place, (row, ratio) in enumerate(shown):
        reach = [[max(0.0, ratio.value - ratio.low)], [max(0.0, ratio.high - ratio.value)]]
        color = "#e45756" if row.differs else "#888"
        axes.errorbar([ratio.value], [place], xerr=reach, fmt="o", capsize=3, color=color)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [row.name for row, _ in shown])
    charts = {"ratios": figure}
    for measure, title in _TITLES.items():
        series = {}
        for name, side in records.items():
            complete = [record for record in side if record.ok and not record.warm_up]
            values = sorted(value * 1000 for record in complete if (value := getattr(record, measure)) is not None)
            series[name] = [(value, (place + 1) / len(values)) for place, value in enumerate(values)]
        title = f"{title}: share of requests within"
        charts[f"{measure}-distribution"] = line_chart(title, "ms", "share", series, drawstyle="steps-post")
    return charts


def ratio_charts(
    ratios: Mapping[str, Mapping[str, Mapping[float, Interval]]], names: tuple[str, str]
) -> dict[str, Any]:
    """Ratios of two operating curves over concurrency, a chart for each measure."""
    charts = {}
    for measure, kinds in ratios.items():
        figure, axes = new_figure(f"{measure}: {names[0]} / {names[1]}", "concurrency", "ratio, 95 % interval")
        for kind, points in kinds.items():
            levels = sorted(points)
            found = [points[level] for level in levels]
            reach = [[ratio.value - ratio.low for ratio in found], [ratio.high - ratio.value for ratio in found]]
            axes.errorbar(levels, [ratio.value for ratio in found], yerr=reach, marker="o", capsize=3, label=kind)
        axes.axhline(1.0, color="black", linewidth=0.8)
        _set_axes(axes, {level for points in kinds.values() for level in points})
        axes.legend(frameon=False)
        charts["ratio-" + measure.replace(" ", "-")] = figure
    return charts


def svg(figure: Any) -> str:
    """The chart as an SVG element for a page."""
    out = io.StringIO()
    figure.savefig(out, format="svg")
    text = out.getvalue()
    return text[text.index("<svg") :].replace("<svg", '<svg role="img"', 1)


def save(charts: Mapping[str, Any], folder: Path) -> None:
    """Write the charts as PNG files."""
    folder.mkdir(exist_ok=True)
    for name, figure in charts.items():
        figure.savefig(folder / f"{name}.png", dpi=130)


def _percentiles(levels: Mapping[Any, Summary], measure: str, rank: int) -> Points:
    spreads = {level: getattr(summary, measure) for level, summary in levels.items()}
    return [(level, spread.percentile(rank) * 1000) for level, spread in spreads.items() if spread]


def _throughput(levels: Mapping[float, Summary]) -> Points:
    return [(level, summary.output_throughput) for level, summary in levels.items()]


def _set_axes(axes: Any, levels: Iterable[float]) -> None:
    """Start at 0; a logarithmic axis for levels that grow by factors."""
    axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
    ticks = sorted(levels)
    if len(ticks) > 2 and ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]:
        axes.set_xscale("log", base=2)
    if 0 < len(ticks) <= 9:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()


def _over_time(records: Sequence[Record], title: str, points: Points) -> Any:
    """Percentiles of (time, seconds) points in bins of time."""
    bins: dict[int, list[float]] = defaultdict(list)
    start, width = _bins(records)
    for time, value in points:
        bins[int((time - start) / width)].append(value * 1000)
    series = {
        f"p{rank}": [(width * (at + 0.5), interpolated(sorted(bins[at]), rank / 100)) for at in sorted(bins)]
        for rank in _RANKS
    }
    return line_chart(f"{title} over time", _TIME, "ms", series, marker=".")


def _outcomes(records: Sequence[Record]) -> Any:
    """Stacked counts; expected outcomes are green."""
    figure, axes = new_figure("Outcomes", _TIME, "requests")
    start, width = _bins(records)
    groups: defaultdict[tuple[bool, str], Counter[int]] = defaultdict(Counter)
    for record in records:
        key = (not record.as_expected, str(record.outcome))
        groups[key][int((record.intended - start) / width)] += 1
    bottom: Counter[int] = Counter()
    failures = iter(_FAILED * len(groups))
    for (failed, name), bins in sorted(groups.items(), key=lambda item: (item[0][0], -item[1].total())):
        places = sorted(bins)
        axes.bar(
            [place * width for place in places],
            [bins[place] for place in places],
            width * 0.9,
            [bottom[place] for place in places],
            align="edge",
            label=name,
            color=next(failures) if failed else _OK,
            alpha=1.0 if failed or name == "ok" else 0.5,
        )
        bottom.update(bins)
    if groups:
        axes.legend(frameon=False)
    return figure


def _kind_charts(kinds: Mapping[str, Summary]) -> dict[str, Any]:
    """Bars for each kind of request."""
    figure, axes = new_figure("Output throughput by kind of request", "", "output tokens/s")
    axes.bar(list(kinds), [summary.output_throughput for summary in kinds.values()], width=0.6)
    charts = {"throughput-by-kind": figure}
    numbered = dict(enumerate(kinds.values()))
    for measure in ("ttft", "tpot"):
        figure, axes = new_figure(f"{_TITLES[measure]} by kind of request", "", "ms")
        for place, rank in enumerate(_RANKS):
            bars = _percentiles(numbered, measure, rank)
            positions = [number + 0.25 * (place - 1) for number, _ in bars]
            axes.bar(positions, [height for _, height in bars], 0.23, color=_COLORS[f"p{rank}"], label=f"p{rank}")
        axes.set_xticks(range(len(kinds)), list(kinds))
        axes.legend(frameon=False)
        charts[f"{measure}-by-kind"] = figure
    return charts


def _bins(records: Sequence[Record]) -> tuple[float, float]:
    """Start, and width of a bin, in seconds."""
    times = [record.intended for record in records]
    return (min(times), max(0.5, (max(times) - min(times)) / _BINS)) if times else (0.0, 1.0)
