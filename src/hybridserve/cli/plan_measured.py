"""`hybridserve plan --measured`: an operating curve beside the plan of the settings that it was measured with."""

from __future__ import annotations

import json

import typer

from hybridserve.errors import CatalogError, ConfigError, PlanRefused
from hybridserve.planning.benchmark_overlay import BenchmarkComparison, judge, read_curve
from hybridserve.planning.resolve import PlanOptions, plan_settings
from hybridserve.planning.roofline import DevicePeaks, device_peaks
from hybridserve.planning.serialize import served
from hybridserve.settings import Settings


def show_measured(settings: Settings, wishes: PlanOptions, text: str, where: str, as_json: bool) -> None:
    """Print a row for each point.

    Raises:
        ConfigError: no operating curve, or of another model.
        PlanRefused: the plan has no cache to hold it against.
    """
    model, points = read_curve(text, where)
    name = settings.model.served_name or settings.model.id
    if name != model:
        raise ConfigError(
            where, f"was measured on {model!r}, the plan is of {name!r}", "give the settings of the server"
        )
    plan = plan_settings(settings, wishes).advice.plan
    if plan.cache is None:
        raise PlanRefused(
            "--measured", "the plan has no cache to hold a curve against", "give --kv-bytes or --memory-gib"
        )
    peaks: DevicePeaks | None
    try:
        peaks = device_peaks(plan.deployment.accelerator, plan.deployment.quantization)
    except CatalogError:
        peaks = None
    rows = judge(points, plan.cache, plan.max_num_seqs, served(plan), peaks)
    if as_json:
        typer.echo(json.dumps({"model": model, "points": [row.as_dict() for row in rows]}, indent=2))
        return
    head = ["prompt/output", "at once", "run, planned", "tokens/s", "bound", "share", "TTFT ms", "TPOT ms", ""]
    body = [head, *map(_words, rows)]
    widths = [max(len(line[index]) for line in body) for index in range(len(head))]
    for number, line in enumerate(body):
        cells = [
            word.rjust(width) if index else word.ljust(width)
            for index, (word, width) in enumerate(zip(line, widths, strict=True))
        ]
        typer.secho("  ".join(cells).rstrip(), bold=number == 0)


def _words(row: BenchmarkComparison) -> list[str]:
    one = row.point
    return [
        f"{one.prompt:,}/{one.output:,}",
        f"{one.concurrency:,}",
        f"{row.running:,}",
        f"{one.tokens_per_s:,.0f}",
        "-" if row.bound_tokens_per_s is None else f"{row.bound_tokens_per_s:,.0f}",
        "-" if row.share is None else f"{row.share:.0%}",
        "-" if one.ttft_s is None else f"{one.ttft_s * 1e3:,.1f}",
        "-" if one.tpot_s is None else f"{one.tpot_s * 1e3:,.2f}",
        "void" if one.void else "requests wait" if row.waits else "",
    ]
