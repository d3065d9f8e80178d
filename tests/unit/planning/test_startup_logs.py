"""Plans against the numbers that vLLM printed in public start-up logs."""

from __future__ import annotations

from typing import Any

import pytest

from hybridserve.catalog.models import resolve_model
from hybridserve.errors import PlanRefused
from hybridserve.planning.cache.layout import plan_cache
from hybridserve.planning.cache.types import CachePlan, CacheRequest
from hybridserve.planning.memory.budget import MemoryRequest, budget_memory
from hybridserve.planning.memory.weights import WeightBytes, count_weights
from hybridserve.planning.models import Architecture, read_architecture
from hybridserve.planning.models.draft import read_draft, with_draft
from hybridserve.planning.models.fields import Fields
from hybridserve.planning.models.quantization import UNQUANTIZED, vendor_recipe
from hybridserve.units import GIB
from support.startup_logs import LOGS, StartupLog

ids = [log.id for log in LOGS]


def arch_of(log: StartupLog) -> Architecture:
    config = resolve_model(log.model).config if isinstance(log.model, str) else log.model
    arch = read_architecture(config)
    return arch if log.draft is None else with_draft(arch, read_draft(Fields(log.draft), "dflash", arch), "a draft")


def pools(log: StartupLog) -> tuple[int, ...]:
    """The least and the most bytes that the log rounds to what it prints."""
    if log.pool is None:
        return (64 * GIB,)
    if isinstance(log.pool, int):
        return (log.pool,)
    return (round((log.pool - 0.005) * GIB), round((log.pool + 0.005) * GIB) - 1)


def plans(log: StartupLog) -> list[CachePlan]:
    request: dict[str, Any] = {"max_num_seqs": log.max_num_seqs, "full_cudagraphs": not log.eager, **log.request}
    return [plan_cache(arch_of(log), CacheRequest(kv_bytes=pool, **request)) for pool in pools(log)]


def weights_of(log: StartupLog) -> WeightBytes:
    arch, card = arch_of(log), resolve_model(log.model).card if isinstance(log.model, str) else None
    precision = arch.precision
    if precision == UNQUANTIZED and card is not None:
        precision = vendor_recipe(card.weights.quantization, arch.hybrid)
    return count_weights(
        arch,
        precision=precision,
        tensor_parallel_size=log.request.get("tensor_parallel_size", 1),
        published_bytes=card.weights.bytes if card else None,
        confirmed=card is None or "bytes" not in card.weights.uncertain,
    )


@pytest.mark.parametrize("log", [log for log in LOGS if not log.printed.refused_seqs], ids=lambda log: log.id)
def test_plan_has_the_integers_of_the_log(log):
    printed, ends = log.printed, plans(log)
    layout = ends[0].layout
    assert printed.block in (None, layout.block_size)
    assert printed.padding in (None, round(layout.padding_percent, 2))
    assert printed.padding_layers in (None, layout.padding_layers)
    groups = len(layout.groups)
    # The printed pool is rounded, so the numbers of its two ends enclose those of the log.
    for value, of in (
        (printed.blocks, lambda plan: plan.num_blocks),
        (printed.tokens, lambda plan: plan.tokens),
        (printed.tokens_before_0_22, lambda plan: plan.num_blocks // groups * layout.block_size),
        (printed.concurrency, lambda plan: round(plan.concurrency, 2)),
    ):
        if value is not None:
            assert of(ends[0]) <= (round(value, 2) if isinstance(value, float) else value) <= of(ends[-1])


@pytest.mark.parametrize("log", [log for log in LOGS if log.printed.refused_seqs], ids=lambda log: log.id)
def test_plan_refuses_what_the_engine_refused(log):
    seqs, blocks = log.printed.refused_seqs
    with pytest.raises(
        PlanRefused, match=rf"max_num_seqs \({seqs}\) exceeds available Mamba cache blocks \({blocks}\)"
    ):
        plans(log)


@pytest.mark.parametrize("log", [log for log in LOGS if log.printed.weights], ids=lambda log: log.id)
def test_weights_are_within_one_percent_or_not_known(log):
    weights = weights_of(log)
    near = weights.bytes / GIB == pytest.approx(log.printed.weights, rel=0.01)
    assert near or weights.band or log.weights_unknown
    if weights.band:
        assert abs(weights.bytes - log.printed.weights * GIB) <= weights.band


@pytest.mark.parametrize("log", [log for log in LOGS if log.device], ids=lambda log: log.id)
def test_pool_is_inside_its_band(log):
    request = MemoryRequest(
        total_bytes=round(log.device.gib * GIB),
        gpu_memory_utilization=log.device.utilization,
        max_num_seqs=log.max_num_seqs,
        max_num_batched_tokens=log.max_num_batched_tokens,
        max_capture_size=0 if log.eager else min(512, 2 * log.max_num_seqs),
    )
    budget = budget_memory(arch_of(log), weights_of(log), request, 1)
    pool = budget.kv + (0 if log.device.graphs_subtracted else budget.graphs)
    assert abs(pool - log.pool * GIB) <= budget.band
