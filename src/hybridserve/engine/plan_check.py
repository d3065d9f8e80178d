"""Checks the plan against the cache of a started engine, and keeps the profiled pool size for the next plan."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.planning.differences import differences
from hybridserve.planning.memory.profile import record

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineCacheInfo:
    """The cache configuration of a started engine, under vLLM's names. Sizes in tokens or blocks."""

    num_gpu_blocks: int
    block_size: int
    prefix_match_unit: int | None
    mamba_cache_mode: str | None
    mamba_ssm_cache_dtype: str | None
    cache_dtype: str
    kv_cache_size_tokens: int | None
    kv_cache_max_concurrency: float | None
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int

    def line(self) -> str:
        """One line with the capacity, in the words of vLLM's own log."""
        size = "unknown" if self.kv_cache_size_tokens is None else f"{self.kv_cache_size_tokens:,}"
        concurrency = "unknown" if self.kv_cache_max_concurrency is None else f"{self.kv_cache_max_concurrency:.2f}x"
        return (
            f"KV cache size: {size} tokens, Maximum concurrency for {self.max_model_len:,} tokens per request: "
            f"{concurrency} ({self.num_gpu_blocks} blocks of {self.block_size} tokens, mamba mode "
            f"{self.mamba_cache_mode}, SSM state {self.mamba_ssm_cache_dtype}, max_num_seqs {self.max_num_seqs})"
        )


def read_cache_info(vllm_config: Any) -> EngineCacheInfo:
    """Read a started engine's `VllmConfig`."""
    cache, scheduler = vllm_config.cache_config, vllm_config.scheduler_config
    return EngineCacheInfo(
        num_gpu_blocks=cache.num_gpu_blocks,
        block_size=cache.block_size,
        prefix_match_unit=cache.prefix_match_unit,
        mamba_cache_mode=cache.mamba_cache_mode,
        mamba_ssm_cache_dtype=str(cache.mamba_ssm_cache_dtype),
        cache_dtype=str(cache.cache_dtype),
        kv_cache_size_tokens=cache.kv_cache_size_tokens,
        kv_cache_max_concurrency=cache.kv_cache_max_concurrency,
        max_model_len=vllm_config.model_config.max_model_len,
        max_num_seqs=scheduler.max_num_seqs,
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
    )


def verify_plan(spec: DeploymentSpec, reported: EngineCacheInfo) -> dict[str, Any]:
    """Log every difference between plan and engine, save the profiled pool, and return the body of ``GET /plan``."""
    assert spec.plan is not None
    plan = plan_document(spec.plan.cache, reported)
    for difference in plan["differences"]:
        logger.warning("plan_mismatch", extra={"difference": difference})
    save_profiled_pool(spec, reported)
    return plan


def plan_document(planned: Mapping[str, Any], reported: EngineCacheInfo) -> dict[str, Any]:
    """Body of ``GET /plan``: the engine's report, the plan, and their differences by field."""
    engine = asdict(reported)
    different = differences(planned, engine)
    return {
        "engine": engine,
        "line": reported.line(),
        "plan": dict(planned),
        "holds": not different,
        "differences": [str(difference) for difference in different],
    }


def save_profiled_pool(spec: DeploymentSpec, reported: EngineCacheInfo) -> None:
    """Write the pool that this start profiled into `accelerator.calibration`, so that the next plan uses it.

    The engine reports blocks, not bytes; blocks times the planned bytes per block give the same plan.
    """
    file, plan = spec.settings.accelerator.calibration, spec.plan
    if file is None or plan is None or plan.profile_key is None:
        return
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    content = record(
        text,
        **plan.profile_key,
        kv_bytes=reported.num_gpu_blocks * plan.cache["bytes_per_block"],
        read=date.today(),
        where=str(file),
    )
    file.write_text(content, encoding="utf-8")
