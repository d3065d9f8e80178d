"""Draw the dashboards' JSON with data from a Prometheus: a look at them without Grafana.

    python scripts/render_dashboards.py --prometheus http://127.0.0.1:9090 --minutes 5 --out docs/dashboards

The layout, titles, units and queries are the JSON's; the drawing is ours and not Grafana's.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

from hybridserve.telemetry.query import Line, Prometheus

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROW_INCHES, WIDTH_INCHES = 24, 0.33, 16.0
MAX_LINES = 12


def filled(expr: str, rate: str) -> str:
    """The expression with everything chosen."""
    expr = expr.replace("$__rate_interval", rate).replace("$__interval", rate)
    return re.sub(r"\$\{?(namespace|model|replica)\}?", ".*", expr)


def scaled(unit: str) -> Callable[[float], str]:
    """Text of a value in one of Grafana's units."""

    def text(value: float) -> str:
        if math.isinf(value):
            return "never"
        if unit == "percentunit":
            return f"{value * 100:.4g} %"
        if unit == "bool_yes_no":
            return "yes" if value else "no"
        if unit == "s":
            for size, name in ((86400.0, "d"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
                if abs(value) >= size:
                    return f"{value / size:.3g} {name}"
            return "0 s"
        if unit == "bytes":
            for power, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
                if abs(value) >= 2**power:
                    return f"{value / 2**power:.3g} {name}"
            return f"{value:.0f} B"
        return f"{value:.4g}" + {"reqps": "/s", "ops": "/s"}.get(unit, "")

    return text


def name_of(line: Line, legend: str) -> str:
    """The legend with its labels filled in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: line.labels.get(match[1], ""), legend) or "value"


def draw(axes: Any, panel: dict[str, Any], lines: list[tuple[str, Line]], start: float, end: float) -> None:
    """One panel."""
    unit = scaled(panel["fieldConfig"]["defaults"].get("unit", "short"))
    axes.set_title(panel["title"], fontsize=9, loc="left", fontweight="bold")
    lines = [(name, line) for name, line in lines if line.points]
    if panel["type"] == "stat" or not lines:
        axes.axis("off")
        latest = max((line.points[-1] for _, line in lines), default=None)
        text = unit(latest[1]) if latest is not None else "nothing yet"
        axes.text(
            0.5,
            0.45,
            text,
            ha="center",
            va="center",
            fontsize=20 if lines else 11,
            color="#37872d" if lines else "#999",
        )
        return
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    if custom.get("stacking", {}).get("mode") == "normal":
        grid = sorted({at for _, line in lines for at, _ in line.points})
        rows = [[dict(line.points).get(at, 0.0) for at in grid] for _, line in lines]
        axes.stackplot([at - start for at in grid], *rows, labels=[name for name, _ in lines], alpha=0.75)
    else:
        for name, line in lines[:MAX_LINES]:
            shown = [(at - start, value) for at, value in line.points if math.isfinite(value)]
            axes.plot([at for at, _ in shown], [value for _, value in shown], label=name, linewidth=1.2)
    axes.set_xlim(0, end - start)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=6, loc="upper left", framealpha=0.6)


def render(file: Path, prometheus: Prometheus, start: float, end: float, rate: str, out: Path) -> Path:
    """One dashboard as a PNG; its path."""
    board = json.loads(file.read_text(encoding="utf-8"))
    panels = board["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(WIDTH_INCHES, height * ROW_INCHES + 0.6))
    figure.suptitle(board["title"], fontsize=13, x=0.01, y=0.995, ha="left", va="top")
    top = 0.6 / (height * ROW_INCHES + 0.6)
    step = max(1.0, (end - start) / 240)
    for panel in panels:
        place = panel["gridPos"]
        bottom = (1 - top) * (1 - (place["y"] + place["h"]) / height)
        tall = (1 - top) * place["h"] / height
        left, wide = place["x"] / COLUMNS, place["w"] / COLUMNS
        if panel["type"] == "row":
            figure.text(0.01, bottom + tall * 0.2, panel["title"], fontsize=10, color="#1f60c4")
            continue
        axes = figure.add_axes((left + 0.045, bottom + tall * 0.12, wide - 0.055, tall * 0.72))
        lines = [
            (name_of(line, target.get("legendFormat", "")), line)
            for target in panel["targets"]
            for line in prometheus.range(filled(target["expr"], rate), start, end, step)
        ]
        draw(axes, panel, lines, start, end)
    picture = out / f"{file.stem}.png"
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    return picture


def main() -> None:
    """Draw all."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--prometheus", default="http://127.0.0.1:9090")
    words.add_argument("--minutes", type=float, default=15)
    words.add_argument("--rate", default="1m", help="window of rates; four scrapes or more")
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--dashboards", type=Path, default=ROOT / "deploy" / "grafana" / "dashboards")
    asked = words.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    end = time.time()
    for file in sorted(asked.dashboards.glob("*.json")):
        print(render(file, Prometheus(asked.prometheus), end - 60 * asked.minutes, end, asked.rate, asked.out))


if __name__ == "__main__":
    main()
