"""The plan beside what the engine reports: the body of ``GET /plan``, and the memory profile for the next plan."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Any

from hybridserve.engine.cache_info import EngineCacheInfo
from hybridserve.planning.cache.types import CachePlan
from hybridserve.planning.deployment import profiled_settings
from hybridserve.planning.memory.profile import record
from hybridserve.planning.resolve import ResolvedPlan
from hybridserve.planning.verification import differences


def plan_document(plan: CachePlan | None, reported: EngineCacheInfo) -> dict[str, Any]:
    """Body of ``GET /plan``: the engine's own statement, the plan's, and every difference by name."""
    engine = asdict(reported)
    if plan is None:
        return {"engine": engine, "line": reported.line(), "plan": None, "holds": None, "differences": []}
    different = differences(plan, engine)
    return {
        "engine": engine,
        "line": reported.line(),
        "plan": {
            "num_gpu_blocks": plan.num_blocks,
            "block_size": plan.layout.block_size,
            "mamba_cache_mode": plan.layout.mode,
            "kv_cache_size_tokens": plan.tokens,
            "kv_cache_max_concurrency": plan.concurrency,
            "max_model_len": plan.max_model_len,
            "bytes_per_block": plan.layout.bytes_per_block,
            "state_groups": len(plan.layout.groups) - plan.layout.attention_groups,
            "n_safe": plan.n_safe(plan.max_model_len),
            "n_steady": plan.n_steady(plan.max_model_len),
        },
        "holds": not different,
        "differences": [str(difference) for difference in different],
    }


def save_profiled_pool(planned: ResolvedPlan, reported: EngineCacheInfo) -> None:
    """Write the pool that this start profiled into the calibration file, so that the next plan is exact.

    The engine does not report its bytes, but its blocks: blocks times bytes per block give the same plan.
    """
    file = planned.settings.accelerator.calibration
    plan = planned.advice.plan
    if file is None or plan.deployment.kv_cache_memory_bytes is not None:
        return
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    content = record(
        text,
        model=planned.model.id,
        accelerator=plan.deployment.accelerator.id,
        settings=profiled_settings(plan.deployment),
        kv_bytes=reported.num_gpu_blocks * plan.layout.bytes_per_block,
        read=date.today(),
        where=str(file),
    )
    file.write_text(content, encoding="utf-8")
