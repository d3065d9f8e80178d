"""`hybridserve plan --measured`: compare a measured operating curve with the plan of the same settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer

from hybridserve.cli.plan_view import cost_lines
from hybridserve.cli.tables import print_table
from hybridserve.errors import CatalogError, ConfigError, PlanRefused
from hybridserve.planning.benchmark_overlay import BenchmarkComparison, compare_with_plan, read_curve
from hybridserve.planning.cost import cost_data, measured_cost
from hybridserve.planning.deployment import DeploymentPlan
from hybridserve.planning.resolve import PlanOptions, plan_settings
from hybridserve.planning.roofline import DevicePeaks, device_peaks
from hybridserve.planning.serialize import served_model
from hybridserve.settings import Settings


def show_measured(
    settings: Settings, options: PlanOptions, text: str, where: str, prices: Mapping[str, float], as_json: bool
) -> None:
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
    costs = [_cost(plan, row, prices) for row in rows] if prices else []
    if as_json:
        found = [row.as_dict() for row in rows]
        for point, cost in zip(found, costs, strict=False):
            point["cost"] = cost
        typer.echo(json.dumps({"model": model, "points": found}, indent=2))
        return
    head = ["prompt/output", "concurrency", "run, planned", "tokens/s", "bound", "share", "TTFT ms", "TPOT ms", ""]
    print_table([head, *map(_cells, rows)], left=(0,))
    if costs:
        typer.echo(
            "\nCost of a million tokens as measured; prompt and output share the time as in the roofline's bound:"
        )
    for row, cost in zip(rows, costs, strict=False):
        at = row.point
        typer.echo(f"  {at.prompt:,}/{at.output:,} at {at.concurrency}: {'; '.join(cost_lines(cost))}")


def _cost(plan: DeploymentPlan, row: BenchmarkComparison, prices: Mapping[str, float]) -> dict[str, Any] | None:
    point = row.point
    if point.void:
        return None
    return cost_data(measured_cost(plan, prices, row.running, point.prompt, point.output, point.tokens_per_s))


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
