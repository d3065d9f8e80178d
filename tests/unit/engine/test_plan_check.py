"""The plan against the engine's report, and the pool that a start profiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hybridserve.deployment.resolve import resolve_deployment
from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.engine.plan_check import EngineCacheInfo, plan_document, save_profiled_pool
from hybridserve.settings import load


def resolved(*assignments: str) -> DeploymentSpec:
    return resolve_deployment(load(assignments=assignments, environ={}).settings)


def report(spec: DeploymentSpec) -> EngineCacheInfo:
    """The report of an engine that did exactly as planned."""
    assert spec.plan is not None
    names = ("num_gpu_blocks", "block_size", "mamba_cache_mode", "kv_cache_size_tokens", "kv_cache_max_concurrency",
             "max_model_len")  # fmt: skip
    return EngineCacheInfo(
        **{name: spec.plan.cache[name] for name in names},
        mamba_ssm_cache_dtype="float32",
        cache_dtype="auto",
        prefix_match_unit=32,
        max_num_seqs=8,
        max_num_batched_tokens=2048,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (None, None),
        ("num_gpu_blocks", 7),
        ("block_size", 16),
        ("mamba_cache_mode", "none"),
        ("kv_cache_size_tokens", 1),
        ("kv_cache_max_concurrency", 1.5),
        ("max_model_len", 99),
    ],
)
def test_plan_document_names_each_different_field(field: str | None, value: object) -> None:
    spec = resolved()
    assert spec.plan is not None
    changes: dict[str, object] = {} if field is None else {field: value}
    document = plan_document(spec.plan.cache, replace(report(spec), **changes))  # type: ignore[arg-type]
    assert document["holds"] is (field is None)
    assert [text.split(":")[0] for text in document["differences"]] == list(changes)


def test_profiled_pool_is_known_in_the_next_plan(tmp_path: Path) -> None:
    file = tmp_path / "calibration.yaml"
    flags = ["model.id=nemotron-nano-9b-v2", "accelerator.name=l40s", f"accelerator.calibration={file}"]
    first = resolved(*flags)
    names = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "gpu_memory_utilization")
    pinned = [f"engine.{name}={first.engine_args[name]}" for name in names]
    second = resolved(*flags, *pinned)
    save_profiled_pool(second, replace(report(second), num_gpu_blocks=1111))
    third = resolved(*flags, *pinned)
    assert third.plan is not None
    assert third.plan.cache["num_gpu_blocks"] == 1111


def test_given_pool_is_not_saved(tmp_path: Path) -> None:
    file = tmp_path / "calibration.yaml"
    spec = resolved(f"accelerator.calibration={file}", "engine.kv_cache_memory_bytes=268435456")
    save_profiled_pool(spec, report(spec))
    assert not file.exists()
