"""What is asked of the engine's cache, under vLLM's own names."""

from __future__ import annotations

from typing import Literal

from hybridserve.records import dataclass

AUTO_LEN = -1
"""`--max-model-len -1`: the engine takes the longest context that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRequest:
    """The engine arguments that decide the cache. None means the engine's default.

    Attributes:
        engine: vLLM version. An unknown one is planned with the nearest table, and the plan says so.
        kv_bytes: bytes of the cache pool of each device.
        enable_prefix_caching: on is the engine's default for models that generate.
        max_model_len: None takes the model's own; `AUTO_LEN` (-1) the longest that fits.
        max_num_seqs: None is not checked against the number of blocks.
        full_cudagraphs: graphs that cover the whole step (the default on CUDA); they need one block per sequence.
        avx512_bf16: CPU only; there the state goes to float32 unless a type was asked for.
    """

    engine: str = "0.29.0"
    platform: Literal["cuda", "cpu"] = "cuda"
    kv_bytes: int
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    mamba_cache_dtype: str = "auto"
    mamba_ssm_cache_dtype: str = "auto"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    block_size: int | None = None
    mamba_block_size: int | None = None
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    mamba_cache_mode: Literal["none", "align", "all"] | None = None
    prefix_match_unit: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    num_speculative_tokens: int = 0
    use_replayssm: bool = False
    replayssm_buffer_len: int = 16
    num_gpu_blocks_override: int | None = None
    full_cudagraphs: bool = True
    avx512_bf16: bool = False
