"""Compare a plan with what the started engine reports; they must be equal, to the integer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridserve.planning.cache.types import CachePlan
from hybridserve.records import dataclass

# Both the engine and the planner divide the same two integers.
RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that is not as planned."""

    field: str
    planned: Any
    reported: Any

    def __str__(self) -> str:
        return f"{self.field}: planned {self.planned}, the engine reports {self.reported}"


def differences(plan: CachePlan, reported: Mapping[str, Any]) -> list[Difference]:
    """Fields in which the engine's report differs from the plan.

    Args:
        reported: fields of vLLM's CacheConfig under its own names: ``num_gpu_blocks``, ``block_size``,
            ``mamba_cache_mode``, ``kv_cache_size_tokens``, ``kv_cache_max_concurrency``, and ``max_model_len``. A field
            that the engine does not report (None) is not compared.
    """
    planned: dict[str, Any] = {
        "num_gpu_blocks": plan.num_blocks,
        "block_size": plan.layout.block_size,
        "mamba_cache_mode": plan.layout.mode if plan.layout.state_layers else None,
        "kv_cache_size_tokens": plan.tokens,
        "kv_cache_max_concurrency": plan.concurrency,
        "max_model_len": plan.max_model_len,
    }
    return [
        Difference(field, value, reported[field])
        for field, value in planned.items()
        if value is not None and reported.get(field) is not None and not _equal(value, reported[field])
    ]


def _equal(planned: Any, reported: Any) -> bool:
    if isinstance(planned, float):
        return bool(abs(planned - reported) <= RELATIVE_TOLERANCE * abs(planned))
    return bool(planned == reported)
