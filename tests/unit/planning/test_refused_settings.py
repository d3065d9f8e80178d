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


def test_device_is_blamed_where_no_given_setting_helps() -> None:
    tight = {"model.id": "nemotron-nano-12b-v2", "accelerator.name": "a10g"}
    for given in ({}, {"engine.max_num_seqs": 4}, {"engine.gpu_memory_utilization": 0.9}):
        error = refusal(**tight, **given)
        assert error.where == "accelerator.name"
        assert "--tp 2; or --gpu l40s" in error.fix


def test_more_and_larger_devices_are_named_together() -> None:
    error = refusal(**{"model.id": "nemotron-3-ultra-550b-a55b", "accelerator.name": "a10g"})
    assert error.fix == "--gpu b200 or gb200 or b300 --tp 8"
    planned(**{"model.id": "nemotron-3-ultra-550b-a55b", "accelerator.name": "b200", "engine.tensor_parallel_size": 8})
