"""A refusal names the given setting that prevents the start, with the last value that starts."""

from __future__ import annotations

import re

import pytest

from hybridserve.errors import PlanRefused
from hybridserve.planning.resolve import plan_settings
from hybridserve.settings import load

NANO = {"model.id": "nemotron-nano-9b-v2", "accelerator.name": "l40s"}
MIB = 1 << 20


def planned(**settings: object) -> None:
    plan_settings(load(assignments=[f"{path}={value}" for path, value in settings.items()], environ={}).settings)


def refusal(**settings: object) -> PlanRefused:
    with pytest.raises(PlanRefused) as caught:
        planned(**settings)
    return caught.value


@pytest.mark.parametrize(
    ("key", "value", "side", "step"),
    [
        ("gpu_memory_utilization", 0.05, "least", -0.01),
        ("max_num_seqs", 100_000, "most", 1),
        ("max_num_batched_tokens", 10_000_000, "most", 1),
        ("kv_cache_memory_bytes", 1024, "least", -MIB),
        ("kv_cache_memory_bytes", 60_000_000_000, "most", MIB),
    ],
)
def test_given_setting_is_blamed_with_the_last_value_that_starts(
    key: str, value: float, side: str, step: float
) -> None:
    path = f"engine.{key}"
    error = refusal(**NANO, **{path: value})
    assert error.where == path
    found = re.search(rf"{key} of at {side} ([\d.]+)", error.fix)
    assert found, error.fix
    number = float(found[1]) if "." in found[1] else int(found[1])
    planned(**NANO, **{path: number})
    assert refusal(**NANO, **{path: round(number + step, 2)}).where == path


def test_setting_that_the_refusal_names_is_blamed_beside_a_file_of_settings() -> None:
    file = {**NANO, "accelerator.name": "a100-80gb", "engine.gpu_memory_utilization": 0.92}
    error = refusal(**file, **{"engine.max_num_seqs": 2652})
    assert error.where == "engine.max_num_seqs"
    assert "max_num_seqs (2652) exceeds" in error.what
    most = re.match(r"max_num_seqs of at most (\d+); or ", error.fix)
    assert most, error.fix
    planned(**file, **{"engine.max_num_seqs": most[1]})
    # More of the memory than the engine's default would start, but it is not what was too much.
    assert "gpu_memory_utilization" not in error.fix


def test_share_of_memory_is_named_where_the_default_would_start() -> None:
    small = {**NANO, "engine.gpu_memory_utilization": 0.45}
    for given, first in (("max_num_seqs", 200), "max_num_seqs"), (("max_model_len", 131072), "max_model_len"):
        error = refusal(**small, **{f"engine.{given[0]}": given[1]})
        assert error.where == f"engine.{first}"
        assert f"{first} of at most" in error.fix.partition("; ")[0]
        assert "; or gpu_memory_utilization of at least 0." in error.fix


def test_tokens_of_a_step_are_blamed_beside_the_default_share() -> None:
    file = {**NANO, "engine.gpu_memory_utilization": 0.92, "engine.max_num_seqs": 8}
    error = refusal(**file, **{"engine.max_num_batched_tokens": 160_000})
    assert error.where == "engine.max_num_batched_tokens"
    assert error.fix.startswith("max_num_batched_tokens of at most ")


def test_device_is_blamed_where_no_given_setting_helps() -> None:
    tight = {"model.id": "nemotron-nano-12b-v2", "accelerator.name": "a10g"}
    for given in ({}, {"engine.max_num_seqs": 4}, {"engine.gpu_memory_utilization": 0.9}):
        error = refusal(**tight, **given)
        assert error.where == "accelerator.name"
        assert "--set engine.tensor_parallel_size=2; or --gpu l40s" in error.fix


def test_more_and_larger_devices_are_named_together() -> None:
    error = refusal(**{"model.id": "nemotron-3-ultra-550b-a55b", "accelerator.name": "a10g"})
    assert error.fix == "--gpu b200 or gb200 or b300 --set engine.tensor_parallel_size=8"
    planned(**{"model.id": "nemotron-3-ultra-550b-a55b", "accelerator.name": "b200", "engine.tensor_parallel_size": 8})


def test_memory_that_is_set_is_blamed_and_not_the_device() -> None:
    error = refusal(**NANO, **{"accelerator.memory_gib": 4.8})
    assert error.where == "accelerator.memory_gib"
    assert error.what.startswith("4.8 GiB are too little")
    assert "--gpu" not in error.fix
    found = re.match(r"([\d.]+), the usable memory of NVIDIA L40S, or leave it out", error.fix)
    assert found, error.fix
    planned(**NANO, **{"accelerator.memory_gib": found[1]})


@pytest.mark.parametrize(
    ("model", "device", "most"),
    [
        ("qwen3-next-80b-a3b", "h100", 48),  # a stage without experts
        ("granite-4.0-h-tiny", "h100", 40),  # a stage without a cache
        ("granite-4.0-h-tiny", "cpu", 4),  # a stage without attention
    ],
)
def test_too_many_stages_are_answered_with_the_most_that_fit(model: str, device: str, most: int) -> None:
    settings = {"model.id": model, "accelerator.name": device}
    for stages in (100, most + 1):
        error = refusal(**settings, **{"engine.pipeline_parallel_size": stages})
        assert f"of {stages}" in error.what
        assert error.fix == f"at most {most} stages"
    planned(**settings, **{"engine.pipeline_parallel_size": most})
