"""After a start: plan against report, the pool that is remembered, and the metrics that show both."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hybridserve.engine.cache_info import EngineCacheInfo
from hybridserve.engine.plan_check import plan_document, save_profiled_pool
from hybridserve.planning.resolve import ResolvedPlan, plan_settings
from hybridserve.planning.verification import differences
from hybridserve.settings import load


def planned_for(*assignments: str) -> ResolvedPlan:
    return plan_settings(load(assignments=assignments, environ={}).settings)


def report(planned: ResolvedPlan) -> EngineCacheInfo:
    """What an engine says that did exactly as planned."""
    cache = planned.advice.plan.cache
    assert cache is not None
    return EngineCacheInfo(
        num_gpu_blocks=cache.num_blocks,
        block_size=cache.layout.block_size,
        mamba_cache_mode=cache.layout.mode,
        mamba_ssm_cache_dtype="float32",
        cache_dtype="auto",
        kv_cache_size_tokens=cache.tokens,
        kv_cache_max_concurrency=cache.concurrency,
        max_model_len=cache.max_model_len,
        max_num_seqs=8,
        max_num_batched_tokens=2048,
    )


def test_a_plan_that_holds_has_no_differences() -> None:
    planned = planned_for()
    document = plan_document(planned.advice.plan.cache, report(planned))
    assert document["holds"] is True
    assert document["differences"] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_gpu_blocks", 7),
        ("block_size", 16),
        ("mamba_cache_mode", "none"),
        ("kv_cache_size_tokens", 1),
        ("kv_cache_max_concurrency", 1.5),
        ("max_model_len", 99),
    ],
)
def test_each_field_that_differs_is_named(field: str, value: object) -> None:
    planned = planned_for()
    cache = planned.advice.plan.cache
    assert cache is not None
    reported = replace(report(planned), **{field: value})
    (difference,) = differences(cache, asdict(reported))
    assert difference.field == field
    document = plan_document(cache, reported)
    assert document["holds"] is False
    assert f"{field}: planned" in document["differences"][0]


def test_a_profiled_pool_makes_the_next_plan_exact(tmp_path: Path) -> None:
    file = tmp_path / "calibration.yaml"
    flags = ["model.id=nemotron-nano-9b-v2", "accelerator.name=l40s", f"accelerator.calibration={file}"]
    first = planned_for(*flags)
    assert first.advice.plan.budget.band > 0
    engine = replace(report(first), num_gpu_blocks=1111)
    save_profiled_pool(first, engine)
    fixed = [
        f"engine.{name}={value}"
        for name, value in first.advice.values.items()
        if name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "gpu_memory_utilization")
    ]
    save_profiled_pool(planned_for(*flags, *fixed), engine)
    second = planned_for(*flags, *fixed).advice.plan
    assert second.budget.band == 0
    assert second.cache is not None
    assert second.cache.num_blocks == 1111


def test_given_bytes_are_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "calibration.yaml"
    planned = planned_for(f"accelerator.calibration={file}", "engine.kv_cache_memory_bytes=268435456")
    save_profiled_pool(planned, report(planned))
    assert not file.exists()
