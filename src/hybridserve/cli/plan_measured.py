"""`hybridserve plan --measured`: compare a measured operating curve with the plan of the same settings."""

from __future__ import annotations

import json

import typer

from hybridserve.cli.tables import print_table
from hybridserve.errors import CatalogError, ConfigError, PlanRefused
from hybridserve.planning.benchmark_overlay import BenchmarkComparison, compare_with_plan, read_curve
from hybridserve.planning.resolve import PlanOptions, plan_settings
from hybridserve.planning.roofline import DevicePeaks, device_peaks
from hybridserve.planning.serialize import served_model
from hybridserve.settings import Settings


def show_measured(settings: Settings, options: PlanOptions, text: str, where: str, as_json: bool) -> None:
    """Print a row for each measured point.

    Raises:
        ConfigError: not an operating curve, or one of another model.
        PlanRefused: the plan has no cache to compare with.
    """
    model, points = read_curve(text, where)
    name = settings.model.served_name or settings.model.id
    if name != model:
        raise ConfigError(
            where, f"was measured on {model!r}, but the plan is for {name!r}", "use the server's settings"
        )
    plan = plan_settings(settings, options).advice.plan
    if plan.cache is None:
        raise PlanRefused("--measured", "the plan has no cache to compare with", "set --kv-bytes or --memory-gib")
    peaks: DevicePeaks | None
    try:
        peaks = device_peaks(plan.deployment.accelerator, plan.deployment.precision.compute)
    except CatalogError:
        peaks = None
    rows = compare_with_plan(points, plan.cache, plan.max_num_seqs, served_model(plan), peaks)
    if as_json:
        typer.echo(json.dumps({"model": model, "points": [row.as_dict() for row in rows]}, indent=2))
        return
    head = ["prompt/output", "concurrency", "run, planned", "tokens/s", "bound", "share", "TTFT ms", "TPOT ms", ""]
    print_table([head, *map(_cells, rows)], left=(0,))


def _cells(row: BenchmarkComparison) -> list[str]:
    point = row.point
    return [
        f"{point.prompt:,}/{point.output:,}",
        f"{point.concurrency:,}",
        f"{row.running:,}",
        f"{point.tokens_per_s:,.0f}",
        "-" if row.bound_tokens_per_s is None else f"{row.bound_tokens_per_s:,.0f}",
        "-" if row.share is None else f"{row.share:.0%}",
        "-" if point.ttft_s is None else f"{point.ttft_s * 1e3:,.1f}",
        "-" if point.tpot_s is None else f"{point.tpot_s * 1e3:,.2f}",
        "void" if point.void else "requests wait" if row.waits else "",
    ]
