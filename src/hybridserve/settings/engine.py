"""Section `engine`: vLLM's own arguments under vLLM's own names. Empty means: let the plan decide."""

from typing import Any, Literal

from pydantic import Field

from hybridserve.settings.section import Section


class EngineSection(Section):
    """vLLM's engine arguments."""

    version: str = "0.29.0"
    """vLLM version the deployment is planned and pinned for."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Weight and activation type; `auto` is the checkpoint's own."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt plus output of one request, in tokens."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Sequences that run at once. Never above the number of cache blocks, or the engine refuses to start."""
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    """Tokens of one engine step: the prefill chunk budget."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of the device's memory the engine may take."""
    kv_cache_memory_bytes: int | None = Field(default=None, ge=1)
    """Bytes of the cache pool of one device. Given, capacity is exact and profiling is skipped."""
    tensor_parallel_size: int = Field(default=1, ge=1, le=1024)
    """Devices that share each layer."""
    pipeline_parallel_size: int = Field(default=1, ge=1, le=1024)
    """Devices that share the stack of layers."""
    enable_prefix_caching: bool | None = None
    """Reuse of shared prompt prefixes. On a hybrid it costs state blocks: mode align instead of none."""
    prefix_match_unit: int | None = Field(default=None, ge=1)
    """Smallest cacheable prefix in tokens; must divide the block size."""
    mamba_cache_mode: Literal["none", "align", "all"] | None = None
    """How SSM states are cached; follows prefix caching when empty."""
    mamba_cache_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Type of the conv state."""
    mamba_ssm_cache_dtype: Literal["auto", "float32", "float16", "bfloat16"] | None = None
    """Type of the SSM state; the catalog's (float32 for Nemotron) when empty."""
    enable_mamba_cache_stochastic_rounding: bool = False
    """Stochastic rounding of a float16 SSM state."""
    kv_cache_dtype: str = "auto"
    """Type of the attention cache: auto, fp8, ..."""
    block_size: int | None = Field(default=None, ge=1)
    """Attention block size. Leave it empty on hybrids: the engine aligns it to the state page."""
    watermark: float | None = Field(default=None, ge=0, lt=1)
    """Share of blocks kept free on admission."""
    max_num_queued_reqs: int | None = Field(default=None, ge=1)
    """Requests that may wait in the engine before it answers 503."""
    enforce_eager: bool | None = None
    """Run without captured graphs."""
    seed: int = 0
    """Seed of the engine's sampler."""
    reasoning_parser: str | None = None
    """Parser that splits reasoning from content; the catalog's when empty."""
    tool_call_parser: str | None = None
    """Parser of tool calls; the catalog's when empty."""
    chat_template: str | None = None
    """File that replaces the model's own chat template. A license duty may hang on it: see `hybridserve check`."""
    trust_remote_code: bool = False
    """Run Python files that come with the weights."""
    hf_overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields of config.json to replace."""
    logits_processors: tuple[str, ...] = ()
    """Qualified names of logits processors."""
    speculative_config: dict[str, Any] | None = None
    """Speculative decoding, as vLLM's JSON."""
    kv_transfer_config: dict[str, Any] | None = None
    """KV connector, as vLLM's JSON."""
    extra_args: dict[str, Any] = Field(default_factory=dict)
    """Any other engine argument under vLLM's name (max_logprobs: 20). Unknown ones are refused at start."""
