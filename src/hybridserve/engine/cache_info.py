"""What the engine says of its own cache, as plain data: the other side of the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EngineCacheInfo:
    """Fields of vLLM's CacheConfig after start, and of the scheduler. Sizes in tokens or blocks."""

    num_gpu_blocks: int
    block_size: int
    mamba_cache_mode: str | None
    mamba_ssm_cache_dtype: str | None
    cache_dtype: str
    kv_cache_size_tokens: int | None
    kv_cache_max_concurrency: float | None
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int

    def line(self) -> str:
        """The two log lines in which vLLM states its capacity, as one."""
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
        mamba_cache_mode=cache.mamba_cache_mode,
        mamba_ssm_cache_dtype=str(cache.mamba_ssm_cache_dtype),
        cache_dtype=str(cache.cache_dtype),
        kv_cache_size_tokens=cache.kv_cache_size_tokens,
        kv_cache_max_concurrency=cache.kv_cache_max_concurrency,
        max_model_len=vllm_config.model_config.max_model_len,
        max_num_seqs=scheduler.max_num_seqs,
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
    )
