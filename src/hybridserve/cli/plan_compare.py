"""`hybridserve plan --compare`: compare models and GPUs, and draw where cache sizes cross over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from hybridserve.cli.plan_view import cost_lines
from hybridserve.cli.tables import print_table
from hybridserve.errors import EnvironmentFault, PlanRefused
from hybridserve.planning.comparison import CURVE_LENGTHS, Column, compare_columns, crossover, sequence_bytes
from hybridserve.planning.cost import bound_cost, cost_data
from hybridserve.planning.resolve import PlanOptions, ResolvedPlan, plan_settings
from hybridserve.planning.serialize import more_than_usable, workload_data
from hybridserve.planning.workload import ASSUMED, Workload
from hybridserve.settings import Settings
from hybridserve.units import MIB, counted


def compare_plans(
    settings: Sequence[Settings],
    options: PlanOptions,
    lengths: Sequence[int],
    chart: Path | None,
    prices: Mapping[str, float],
    as_json: bool,
) -> None:
    """Plan every combination, print a table, and draw the chart to `chart` if given.

    With prices, the cheapest comes first.
    """
    columns = [_column(combination, options) for combination in settings]
    rows = compare_columns(columns, lengths)
    if prices:
        rows = _by_cost(columns, rows, options, prices)
    crossings = _crossings(columns)
    if chart is not None:
        draw([column.planned for column in columns if column.planned is not None], chart)
    if as_json:
        planned_for = workload_data(options.workload)
        typer.echo(json.dumps({"workload": planned_for, "rows": rows, "crossovers": crossings}, indent=2))
        return
    _table(rows, lengths, options.workload)
    for crossing in crossings:
        typer.echo(
            f"\n{crossing['hybrid']} needs less cache than {crossing['other']} from {crossing['tokens']:,} tokens per "
            "sequence."
        )
    for warning in dict.fromkeys(line for each in columns if each.planned for line in more_than_usable(each.planned)):
        typer.echo(f"\nwarning: {warning}")
    if chart is not None:
        typer.echo(f"\nchart: {chart}")


def _column(settings: Settings, options: PlanOptions) -> Column:
    try:
        planned = plan_settings(settings, options)
    except PlanRefused as refusal:
        return Column(settings.model.id, settings.accelerator.name, None, refusal)
    return Column(planned.model.id, settings.accelerator.name, planned, None)


def _by_cost(
    columns: Sequence[Column], rows: Sequence[dict[str, Any]], options: PlanOptions, prices: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The rows with their costs, those of the cheapest request first; what has no cost comes last."""
    for column, row in zip(columns, rows, strict=True):
        plan = column.planned.advice.plan if column.planned else None
        row["cost"] = cost_data(bound_cost(plan, options.workload, prices)) if plan else None
    return sorted(rows, key=lambda row: row["cost"]["requests"] if row["cost"] else float("inf"))


def _crossings(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Where each hybrid goes below each transformer. Layouts do not depend on the device."""
    layouts = {column.model: column.planned.advice.plan.layout for column in columns if column.planned is not None}
    hybrids = {name: layout for name, layout in layouts.items() if layout.state_groups}
    others = {name: layout for name, layout in layouts.items() if not layout.state_groups}
    return [
        {"hybrid": hybrid, "other": other, "tokens": tokens}
        for hybrid, first in hybrids.items()
        for other, second in others.items()
        if (tokens := crossover(first, second)) is not None
    ]


def _table(rows: Sequence[dict[str, Any]], lengths: Sequence[int], workload: Workload) -> None:
    head = ["GPU", "model", "pool GiB", "blocks", *(f"{length:,}" for length in lengths)]
    body = [head]
    for row in rows:
        if row["verdict"] == "refused":
            body.append([row["accelerator"], row["model"], "-", "-", *("does not start" for _ in lengths)])
            continue
        band = f" ±{row['band_gib']:.2f}" if row["band_gib"] else ""
        cells = [_cell(row["lengths"][str(length)]) for length in lengths]
        body.append([row["accelerator"], row["model"], f"{row['pool_gib']:.2f}{band}", f"{row['blocks']:,}", *cells])
    print_table(body, left=(0, 1))
    typer.echo(
        "\nCells: N_safe / N_steady sequences of that length at the middle of the estimate, and MiB of cache budgeted "
        "for each."
    )
    for row in rows:
        if asked := row.get("asked"):
            answer = "fit" if asked["fits"] else "do not fit"
            where = f"{row['accelerator']} with {row['model']}"
            typer.echo(f"{counted(asked['sequences'], 'request')} at once {answer} on {where}, at the low end.")
    if workload is not ASSUMED:
        ends = f"{workload.p50:,} tokens at p50, {workload.p95:,} at p95"
        typer.echo(f"Flags planned for {workload.source}: {ends}.")
    if any(cell["beyond_the_model"] for row in rows if "lengths" in row for cell in row["lengths"].values()):
        typer.echo("* longer than the model's context: needs RoPE scaling.")
    if any("cost" in row for row in rows):
        typer.echo(
            "\nLeast cost of a million tokens, cheapest request first: lower bounds, at the roofline's throughput."
        )
        for row in rows:
            cost = row["cost"]
            name = f"{row['accelerator']}, {row['model']}"
            typer.echo(f"  {name}: {'; '.join(cost_lines(cost))}")
    for row in rows:
        if row["verdict"] == "refused":
            typer.echo(f"{row['model']} on {row['accelerator']}: {row['what']} ({row['fix']})")


def _cell(cell: dict[str, Any]) -> str:
    mark = "*" if cell["beyond_the_model"] else ""
    return f"{cell['n_safe']:,} / {cell['n_steady']:,}{mark}  {cell['bytes_per_sequence'] / MIB:,.0f}"


def draw(plans: Sequence[ResolvedPlan], path: Path) -> None:
    """Draw cache bytes of one sequence over its length, one line per model.

    Raises:
        EnvironmentFault: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    layouts = {plan.model.id: plan.advice.plan.layout for plan in plans}
    for name, layout in layouts.items():
        axes.plot(
            CURVE_LENGTHS,
            [sequence_bytes(layout, length) / MIB for length in CURVE_LENGTHS],
            label=f"{name} (block {layout.block_size:,})",
        )
    for hybrid in layouts.values():
        for other in layouts.values():
            if hybrid.state_groups and not other.state_groups and (tokens := crossover(hybrid, other)) is not None:
                axes.axvline(tokens, linestyle=":", linewidth=1, color="grey")
                axes.annotate(f" {tokens:,} tokens", (tokens, 0.02), xycoords=("data", "axes fraction"), color="grey")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="tokens of a sequence (prompt and output)",
        ylabel="cache budgeted for the sequence, MiB",
        title="Cache of a sequence: the hybrid needs more below the crossover and far less above it",
    )
    axes.set_xticks([1 << power for power in range(7, 18)], [_short(1 << power) for power in range(7, 18)])
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=144)
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            "--chart", f"{path} cannot be written: {error}", "give a .png file in an existing folder"
        ) from None
    finally:
        pyplot.close(figure)


def _short(tokens: int) -> str:
    return f"{tokens >> 10}k" if tokens >= 1024 else str(tokens)
