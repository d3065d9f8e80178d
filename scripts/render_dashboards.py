"""Draw the dashboards' JSON with data from a Prometheus, without Grafana.

    python scripts/render_dashboards.py --prometheus http://127.0.0.1:9090 --minutes 5 --out docs/dashboards

Layout, titles, units, thresholds, annotations and queries come from the JSON; matplotlib draws them.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import textwrap
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from hybridserve.observability.prometheus_api import Prometheus, Series

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROW_INCHES, WIDTH_INCHES, HEAD_INCHES = 24, 0.34, 15.0, 0.75
MAX_LINES, POINTS, DPI = 12, 240, 72
PAGE, CARD, EDGE, INK, FAINT = "#f4f5f5", "#ffffff", "#dcdde0", "#24292e", "#8a8f98"
COLORS = {"green": "#37872d", "orange": "#e0752d", "red": "#c4162a", "yellow": "#b8860b", "blue": "#3274d9"}
LINES = ("#3274d9", "#e0752d", "#37872d", "#8f3bb8", "#c4162a", "#0a9fa6", "#b8860b", "#6e7681")
SCALES = {
    "s": ((86400.0, "d"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "mbytes": ((2.0**10, "GiB"), (1.0, "MiB")),
    "short": ((1e6, "M"), (1e4, "k")),
}


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is drawn, in seconds since 1970, and the window of rates."""

    prometheus: Prometheus
    start: float
    end: float
    rate: str

    def series(self, expr: str) -> list[Series]:
        """What Prometheus has for an expression of a dashboard, with everything chosen."""
        step = max(1.0, (self.end - self.start) / POINTS)
        return self.prometheus.query_range(filled(expr, self.rate), self.start, self.end, step)


def filled(expr: str, rate: str) -> str:
    """The expression with everything chosen, and a price of 1."""
    expr = expr.replace("$__rate_interval", rate).replace("$__interval", rate).replace("$price", "1")
    return re.sub(r"\$\{?(namespace|release|model|replica)\}?", ".*", expr)


def scaled(unit: str) -> Callable[[float], str]:
    """Text of a value in one of Grafana's units."""

    def text(value: float) -> str:
        if math.isinf(value):
            return "never"
        if unit in ("percentunit", "percent"):
            return f"{value * (100 if unit == 'percentunit' else 1):.3g} %"
        if unit == "bool_yes_no":
            return "yes" if value else "no"
        suffix = unit.partition("suffix:")[2]
        for size, name in SCALES.get("short" if suffix else unit, ()):
            if abs(value) >= size:
                # 14 and 1.5, never 1e+01.
                return f"{float(f'{value / size:.3g}'):g} {name}{suffix}"
        rest = {"reqps": "/s", "ops": "/s", "s": " s", "bytes": " B", "mbytes": " MiB", "celsius": " °C", "watt": " W"}
        return f"{float(f'{value:.4g}'):g}{rest.get(unit, suffix)}"

    return text


def name_of(line: Series, legend: str) -> str:
    """The legend with its labels filled in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: line.labels.get(match[1], ""), legend) or "value"


def color_of(value: float, panel: dict[str, Any]) -> str:
    """The color of the highest threshold that the value reaches."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return COLORS[reached[-1]]


def line_colors(panel: dict[str, Any], names: list[str]) -> list[str]:
    """The color of each series: that of an override of the panel, or the next of the palette."""
    fixed = [
        (re.compile(one["matcher"]["options"].strip("/")), COLORS[one["properties"][0]["value"]["fixedColor"]])
        for one in panel["fieldConfig"].get("overrides", [])
    ]
    return [
        next((color for pattern, color in fixed if pattern.search(name)), LINES[number % len(LINES)])
        for number, name in enumerate(names)
    ]


def draw_text(axes: Any, panel: dict[str, Any], lines: list[tuple[str, Series]]) -> None:
    """A stat: its last value, or the names of its series."""
    axes.axis("off")
    style = {"ha": "center", "va": "center", "transform": axes.transAxes}
    if not lines:
        axes.text(0.5, 0.5, "No data", fontsize=12, color=FAINT, **style)
    elif panel["type"] == "table":
        rows = sorted(", ".join(value for _, value in sorted(line.labels.items()) if value) for _, line in lines)
        axes.text(0.0, 1.0, "\n".join(rows), fontsize=9, color=INK, va="top", transform=axes.transAxes)
    elif panel["options"].get("textMode") == "name":
        names = "\n".join(textwrap.fill(name, 40) for name, _ in lines)
        axes.text(0.5, 0.5, names, fontsize=9, color=INK, linespacing=1.6, **style)
    else:
        value = max(line.points[-1] for _, line in lines)[1]
        unit = scaled(panel["fieldConfig"]["defaults"]["unit"])
        axes.text(0.5, 0.45, unit(value), fontsize=22, fontweight="bold", color=color_of(value, panel), **style)


def draw_lines(axes: Any, panel: dict[str, Any], lines: list[tuple[str, Series]], span: Span) -> None:
    """A time series, with its thresholds."""
    defaults = panel["fieldConfig"]["defaults"]
    unit, custom = scaled(defaults["unit"]), defaults["custom"]
    colors = line_colors(panel, [name for name, _ in lines])
    if custom.get("stacking", {}).get("mode") == "normal":
        grid = sorted({at for _, line in lines for at, _ in line.points})
        rows = [[dict(line.points).get(at, 0.0) for at in grid] for _, line in lines]
        names = [name for name, _ in lines]
        axes.stackplot([at - span.start for at in grid], *rows, labels=names, colors=colors, alpha=0.65, linewidth=0)
    else:
        for number, (name, line) in enumerate(lines[:MAX_LINES]):
            shown = [(at - span.start, value) for at, value in line.points if math.isfinite(value)]
            width = 1.4 + 1.2 * (1 - number / len(lines))  # of lines that lie on each other all are seen
            axes.plot(
                [at for at, _ in shown],
                [value for _, value in shown],
                label=name,
                linewidth=width,
                color=colors[number],
            )
    highest = max(axes.get_ylim()[1], 1.0 if defaults["unit"] == "bool_yes_no" else 0.0)
    axes.set_ylim(0, defaults.get("max", highest) * 1.04)
    for step in defaults["thresholds"]["steps"]:
        if step["value"] and step["value"] <= axes.get_ylim()[1]:
            axes.axhline(step["value"], color=COLORS[step["color"]], linewidth=1.0, linestyle=(0, (5, 4)), alpha=0.8)
    axes.set_xlim(0, span.end - span.start)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value // 60:.0f}:{value % 60:02.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
    axes.yaxis.set_major_locator(FixedLocator(ticks(defaults["unit"], axes.get_ylim()[1])))
    axes.tick_params(labelsize=8, colors=FAINT, length=0)
    axes.grid(color=EDGE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    wide = axes.get_position().width * axes.figure.get_size_inches()[0] + 0.5
    columns = max(1, int(wide / (0.35 + 0.062 * max(len(name) for name in names))))
    shown = slice(2 * columns)  # more would leave the card
    below = {"loc": "upper left", "bbox_to_anchor": (-0.03, -0.1), "frameon": False, "labelcolor": INK}
    axes.legend(handles[shown], names[shown], fontsize=7.5, ncols=columns, handlelength=1.2, columnspacing=1.2, **below)


def ticks(unit: str, highest: float) -> list[float]:
    """Where the axis has numbers: round ones in the unit that they are written in."""
    if unit == "bool_yes_no":
        return [0.0, 1.0]
    size = next((size for size, _ in SCALES.get(unit, ()) if highest >= size), 1.0)
    found = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, highest / size)
    return [float(value) * size for value in found if value * size <= highest]


def events(board: dict[str, Any], span: Span) -> list[float]:
    """When what the board's annotations count went up, in seconds since the start."""
    found = []
    for annotation in board["annotations"]["list"]:
        for line in span.series(annotation["expr"]) if "expr" in annotation else ():
            # Out of sight for long is zero again.
            before = [(-math.inf, 0.0), *line.points]
            found += [
                at - span.start
                for (last, was), (at, value) in zip(before, line.points, strict=False)
                if value > was or at - last > 30
            ]
    return found


def draw(
    figure: Any, panel: dict[str, Any], box: tuple[float, float, float, float], span: Span, marks: Iterable[float]
) -> None:
    """One panel on its card; `box` is left, bottom, width and height in shares of the figure."""
    left, bottom, wide, tall = box
    card = FancyBboxPatch((left, bottom), wide, tall, "square,pad=0", facecolor=CARD, edgecolor=EDGE, lw=0.8, zorder=-1)
    figure.add_artist(card)
    inches = figure.get_size_inches()
    figure.text(
        left + 0.1 / inches[0],
        bottom + tall - 0.1 / inches[1],
        panel["title"],
        fontsize=9.5,
        fontweight="bold",
        va="top",
        color=INK,
    )
    lines = [
        (name_of(line, target.get("legendFormat", "")), line)
        for target in panel["targets"]
        for line in span.series(target["expr"])
        if line.points
    ]
    text = panel["type"] != "timeseries" or not lines
    edge = (0.1, 0.1, 0.1, 0.35) if text else (0.75, 0.55, 0.15, 0.4)  # left, bottom, right, top, in inches
    place = (
        left + edge[0] / inches[0],
        bottom + edge[1] / inches[1],
        wide - (edge[0] + edge[2]) / inches[0],
        tall - (edge[1] + edge[3]) / inches[1],
    )
    axes = figure.add_axes(place, facecolor="none")
    if text:
        draw_text(axes, panel, lines)
        return
    draw_lines(axes, panel, lines, span)
    for at in marks:
        axes.axvline(at, color=LINES[0], linewidth=0.9, linestyle=":")


def render(file: Path, span: Span, out: Path) -> Path:
    """One dashboard as a PNG; its path."""
    board = json.loads(file.read_text(encoding="utf-8"))
    panels = board["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    inches = rows * ROW_INCHES + HEAD_INCHES
    figure = plt.figure(figsize=(WIDTH_INCHES, inches), facecolor=PAGE)
    figure.text(0.008, 1 - 0.1 / inches, board["title"], fontsize=14, fontweight="bold", va="top", color=INK)
    figure.text(0.008, 1 - 0.4 / inches, board["description"], fontsize=9.5, va="top", color=FAINT)
    marks = events(board, span)
    for panel in panels:
        place = panel["gridPos"]
        left, bottom = place["x"] / COLUMNS, (rows - place["y"] - place["h"]) * ROW_INCHES / inches
        wide, tall = place["w"] / COLUMNS, place["h"] * ROW_INCHES / inches
        if panel["type"] == "row":
            figure.text(left + 0.008, bottom + tall * 0.25, panel["title"], fontsize=11, color=LINES[0])
            continue
        gap = 0.05
        box = (left + gap / WIDTH_INCHES, bottom + gap / inches, wide - 2 * gap / WIDTH_INCHES, tall - 2 * gap / inches)
        draw(figure, panel, box, span, marks)
    picture = out / f"{file.stem}.png"
    figure.savefig(picture, dpi=DPI, facecolor=PAGE)
    plt.close(figure)
    return picture


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--rate", default="1m", help="window of rates; four scrapes or more")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dashboards", type=Path, default=ROOT / "helm" / "hybridserve" / "files" / "dashboards")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.time()
    span = Span(Prometheus(args.prometheus), end - 60 * args.minutes, end, args.rate)
    for file in sorted(args.dashboards.glob("*.json")):
        print(render(file, span, args.out))


if __name__ == "__main__":
    main()
