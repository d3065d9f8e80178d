"""Truncated and contradictory config.json: an error that names the field, or a plan; never anything else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hybridserve.errors import CatalogError, PlanRefused
from hybridserve.planning.cache.layout import plan_cache
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.memory.weights import count_weights
from hybridserve.planning.models import read_architecture
from hybridserve.units import GIB
from support.planned_models import NANO_9B, QWEN3_8B
from support.startup_logs import GRANITE_1B, LFM2, QWEN3_NEXT_80B, QWEN_9B, QWEN_35B_A3B, ZAMBA2

CONFIGS = {
    "nano": NANO_9B,
    "qwen3": QWEN3_8B,
    "qwen3-next": QWEN3_NEXT_80B,
    "qwen3.5": QWEN_9B,
    "qwen3.6-moe": QWEN_35B_A3B,
    "granite": GRANITE_1B,
    "lfm2": LFM2,
    "zamba2": ZAMBA2,
}
MISSING = object()
BROKEN = (MISSING, None, "x", -1, 0, 1.5, True, [], {}, 10**30)


def broken(config: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The config with one field of it, or of a part of it, removed or replaced."""
    for key, value in config.items():
        rest = {other: config[other] for other in config if other != key}
        for bad in BROKEN:
            yield key, bad, rest if bad is MISSING else rest | {key: bad}
        if isinstance(value, dict):
            for name, bad, part in broken(value):
                yield f"{key}.{name}", bad, config | {key: part}


def outcome(config: dict[str, Any]) -> str:
    """What is wrong with the answer; empty if it is a plan or a complete error."""
    try:
        arch = read_architecture(config)
        count_weights(arch, precision=arch.precision)
        plan_cache(arch, CacheRequest(kv_bytes=8 * GIB))
    except (CatalogError, PlanRefused) as error:
        return "" if error.where and error.what and error.fix else f"incomplete: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("name", CONFIGS)
def test_broken_field_is_an_error_or_a_plan(name):
    found = {f"{field} = {bad!r}": outcome(config) for field, bad, config in broken(CONFIGS[name])}
    assert {field: wrong for field, wrong in found.items() if wrong} == {}
