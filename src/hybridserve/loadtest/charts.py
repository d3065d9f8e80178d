"""Charts of runs, as matplotlib figures: the same ones go into the page and beside it as PNG."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridserve.errors import EnvironmentFault
from hybridserve.loadtest.compare import Row
from hybridserve.loadtest.metrics import Summary, tokens_over_time
from hybridserve.loadtest.record import Record
from hybridserve.loadtest.statistics import percentile

_RANKS = (50, 95, 99)
_BINS = 30


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
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    return figure, axes


def run_charts(
    records: Sequence[Record], levels: Mapping[float, Summary], kinds: Mapping[str, Summary]
) -> dict[str, Any]:
    """Charts of one run, by file name."""
    counted = [one for one in records if not one.warm_up]
    charts = {
        "ttft-over-time": _over_time(counted, "ttft", "Time to first token"),
        "tpot-over-time": _over_time(counted, "tpot", "Time per output token"),
        "tokens-over-time": _tokens(counted),
        "outcomes-over-time": _outcomes(counted),
    }
    if len(levels) > 1:
        charts |= level_charts(levels, "load level (users or requests/s)")
    if len(kinds) > 1:
        charts["throughput-by-kind"] = _by_kind(kinds)
    return charts


def level_charts(levels: Mapping[float, Summary], across: str) -> dict[str, Any]:
    """Latency and throughput over load."""
    charts = {}
    for measure, title in (("ttft", "Time to first token over load"), ("tpot", "Time per output token over load")):
        figure, axes = new_figure(title, across, "ms")
        for rank in _RANKS:
            points = [
                (x, getattr(spread, f"p{rank}") * 1000)
                for x, one in levels.items()
                if (spread := getattr(one, measure))
            ]
            axes.plot(*zip(*points, strict=True) if points else ([], []), marker="o", label=f"p{rank}")
        axes.set_ylim(bottom=0)
        axes.legend()
        charts[f"{measure}-over-load"] = figure
    figure, axes = new_figure("Throughput over load", across, "output tokens/s")
    axes.plot(list(levels), [one.output_throughput for one in levels.values()], marker="o", label="all")
    axes.set_ylim(bottom=0)
    charts["throughput-over-load"] = figure
    return charts


def grid_chart(curves: Mapping[str, Mapping[float, Summary]]) -> Any:
    """Throughput against concurrency, one line for each prompt and output length."""
    figure, axes = new_figure("Throughput by prompt/output length", "concurrency", "output tokens/s")
    for name, levels in curves.items():
        axes.plot(list(levels), [one.output_throughput for one in levels.values()], marker="o", label=name)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def compare_chart(rows: Sequence[Row], a: str, b: str) -> Any:
    """Ratios with their intervals around 1."""
    figure, axes = new_figure(f"{a} over {b}", "ratio, 95 % interval", "")
    shown = [row for row in rows if row.ratio is not None]
    for place, row in enumerate(reversed(shown)):
        ratio = row.ratio
        assert ratio is not None
        reach = [[max(0.0, ratio.value - ratio.low)], [max(0.0, ratio.high - ratio.value)]]
        axes.errorbar([ratio.value], [place], xerr=reach, fmt="o", capsize=3, color="C3" if row.differs else "C7")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [row.name for row in reversed(shown)])
    return figure


def svg(figure: Any) -> str:
    """As markup that stands in a page."""
    out = io.StringIO()
    figure.savefig(out, format="svg")
    text = out.getvalue()
    return text[text.index("<svg") :]


def save(charts: Mapping[str, Any], folder: Path) -> None:
    """As PNG files."""
    folder.mkdir(exist_ok=True)
    for name, figure in charts.items():
        figure.savefig(folder / f"{name}.png", dpi=130)


def _over_time(records: Sequence[Record], measure: str, title: str) -> Any:
    figure, axes = new_figure(f"{title} over time", "seconds since the start (intended)", "ms")
    bins: dict[int, list[float]] = defaultdict(list)
    start, width = _bins(records)
    for one in records:
        value = getattr(one, measure)
        if one.ok and value is not None:
            bins[int((one.intended - start) / width)].append(value * 1000)
    for rank in _RANKS:
        points = [(width * (at + 0.5), percentile(sorted(values), rank)) for at, values in sorted(bins.items())]
        axes.plot(*zip(*points, strict=True) if points else ([], []), marker=".", label=f"p{rank}")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _tokens(records: Sequence[Record]) -> Any:
    figure, axes = new_figure("Output tokens over time", "seconds since the start", "tokens/s")
    points = tokens_over_time(records)
    axes.step([at for at, _ in points], [rate for _, rate in points], where="post")
    axes.set_ylim(bottom=0)
    return figure


def _outcomes(records: Sequence[Record]) -> Any:
    figure, axes = new_figure("How requests ended", "seconds since the start (intended)", "requests")
    start, width = _bins(records)
    names = [name for name, _ in Counter(str(one.outcome) for one in records).most_common()]
    bottom: Counter[int] = Counter()
    for name in names:
        counts = Counter(int((one.intended - start) / width) for one in records if str(one.outcome) == name)
        places = sorted(counts)
        axes.bar(
            [at * width for at in places],
            [counts[at] for at in places],
            width * 0.9,
            [bottom[at] for at in places],
            align="edge",
            label=name,
        )
        bottom.update(counts)
    if names:
        axes.legend()
    return figure


def _by_kind(kinds: Mapping[str, Summary]) -> Any:
    figure, axes = new_figure("Output throughput by kind of request", "", "output tokens/s")
    axes.bar(list(kinds), [one.output_throughput for one in kinds.values()])
    return figure


def _bins(records: Sequence[Record]) -> tuple[float, float]:
    """Start, and width of a bin in seconds."""
    if not records:
        return 0.0, 1.0
    start = min(one.intended for one in records)
    return start, max(0.5, (max(one.intended for one in records) - start) / _BINS)
