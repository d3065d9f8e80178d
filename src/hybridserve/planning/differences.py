"""Compares a plan with what the started engine reports; both must be equal, to the integer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.types import CachePlan

# Fields of vLLM's CacheConfig and ModelConfig that are compared.
COMPARED = (
    "num_gpu_blocks",
    "block_size",
    "mamba_cache_mode",
    "kv_cache_size_tokens",
    "kv_cache_max_concurrency",
    "max_model_len",
)
# A ratio of two integers, which the engine and the planner divide separately.
RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that is not as planned."""

    field: str
    planned: Any
    reported: Any

    def __str__(self) -> str:
        return f"{self.field}: planned {self.planned}, the engine reports {self.reported}"


def planned_values(plan: CachePlan) -> dict[str, Any]:
    """The planned cache under the engine's names, with the numbers that only the plan has. Sizes in tokens and bytes.

    A pure transformer has no Mamba cache mode.
    """
    layout = plan.layout
    return {
        "num_gpu_blocks": plan.num_blocks,
        "block_size": layout.block_size,
        "mamba_cache_mode": layout.mode if layout.state_layers else None,
        "kv_cache_size_tokens": plan.tokens,
        "kv_cache_max_concurrency": plan.concurrency,
        "max_model_len": plan.max_model_len,
        "bytes_per_block": layout.bytes_per_block,
        "attention_groups": layout.attention_groups,
        "state_groups": layout.state_groups,
        "n_safe": plan.n_safe(plan.max_model_len),
        "n_steady": plan.n_steady(plan.max_model_len),
    }


def differences(planned: Mapping[str, Any], reported: Mapping[str, Any]) -> list[Difference]:
    """Fields in which the engine's report differs from the plan; empty when the plan was met.

    Args:
        planned: from `planned_values`.
        reported: the same fields as the engine reports them. A field that either side leaves out (None) is not
            compared.
    """
    return [
        Difference(field, planned[field], reported[field])
        for field in COMPARED
        if planned[field] is not None
        and reported.get(field) is not None
        and not _equal(planned[field], reported[field])
    ]


def _equal(planned: Any, reported: Any) -> bool:
    if isinstance(planned, float):
        return bool(abs(planned - reported) <= RELATIVE_TOLERANCE * abs(planned))
    return bool(planned == reported)
