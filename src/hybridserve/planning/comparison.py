"""Compare models and devices: what fits at several lengths, and where cache sizes cross over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridserve.errors import CatalogError, PlanRefused
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.types import CacheLayout
from hybridserve.planning.resolve import ResolvedPlan
from hybridserve.planning.roofline import DevicePeaks, bound, device_peaks
from hybridserve.planning.serialize import asked_data, served_model
from hybridserve.units import GIB

# Sequence lengths of the chart, in tokens: fine enough to show every block.
CURVE_LENGTHS = tuple(round(128 * 2 ** (step / 256)) for step in range(256 * 10 + 1))


@dataclass(frozen=True, slots=True)
class Column:
    """One model on one device; `refusal` if it does not fit."""

    model: str
    accelerator: str
    planned: ResolvedPlan | None
    refusal: PlanRefused | None


def compare_columns(columns: Sequence[Column], lengths: Sequence[int]) -> list[dict[str, Any]]:
    """One row per model and device, with a cell for each length.

    A length beyond the model's context is computed and marked, since RoPE scaling may reach it.
    """
    return [_row(column, lengths) for column in columns]


def sequence_bytes(layout: CacheLayout, length: int) -> int:
    """Bytes of the pool budgeted for one sequence of `length` tokens."""
    return layout.blocks_per_sequence(length) * layout.bytes_per_block


def crossover(hybrid: CacheLayout, other: CacheLayout, longest: int = 1 << 17) -> int | None:
    """The length from which the hybrid never needs more cache than the other model; None if there is none.

    Both curves are step functions and may cross earlier; from the returned length on, the hybrid stays below.
    """
    above = None
    step = max(1, other.block_size)
    for length in range(step, longest + 1, step):
        if sequence_bytes(hybrid, length) > sequence_bytes(other, length):
            above = length
    if above is None:
        return step
    return above + 1 if above + step <= longest else None


def _row(column: Column, lengths: Sequence[int]) -> dict[str, Any]:
    row: dict[str, Any] = {"model": column.model, "accelerator": column.accelerator}
    if column.planned is None or column.planned.advice.plan.cache is None:
        assert column.refusal is not None
        return {**row, "verdict": "refused", **column.refusal.as_dict()}
    plan = column.planned.advice.plan
    assert plan.cache is not None
    try:
        device = device_peaks(plan.deployment.accelerator, plan.deployment.precision.compute)
    except CatalogError:
        device = None
    return {
        **row,
        "verdict": plan.verdict,
        "confidence": plan.budget.confidence,
        "pool_gib": round(plan.budget.kv / GIB, 2),
        "band_gib": round(plan.budget.band / GIB, 2),
        "blocks": plan.cache.num_blocks,
        "block_size": plan.layout.block_size,
        "max_model_len": plan.cache.max_model_len,
        "max_num_seqs": plan.max_num_seqs,
        "asked": asked_data(column.planned),
        "lengths": {str(length): _cell(column.planned, length, device) for length in lengths},
    }


def _cell(planned: ResolvedPlan, length: int, device: DevicePeaks | None) -> dict[str, Any]:
    plan = planned.advice.plan
    assert plan.cache is not None
    steady = plan.cache.n_steady(length)
    # The plan chose its own max_num_seqs for other lengths than this one; a given one holds for all.
    running = min(steady, planned.asked.cache.max_num_seqs or steady)
    cell: dict[str, Any] = {
        "bytes_per_sequence": sequence_bytes(plan.layout, length),
        "n_safe": plan.cache.n_safe(length),
        "n_steady": steady,
        "beyond_the_model": length > plan.deployment.arch.max_position_embeddings,
    }
    if device is not None and running:
        # Half prompt, half output: the mean context is then three quarters of the length.
        limit = bound(served_model(plan), device, running, max(1, length // 2), max(1, length - length // 2))
        cell["bound_output_tokens_per_s"] = round(limit.output_tokens_per_s, 1)
    return cell
