"""Section `engine`: vLLM's engine arguments, under vLLM's names. Empty values are chosen by the plan."""

from typing import Any, Literal

from pydantic import Field

from hybridserve.settings.section import Section


class EngineSection(Section):
    """vLLM's engine arguments."""

    version: str = "0.29.0"
    """vLLM version that the deployment is planned for."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Weight and activation type; `auto` is the checkpoint's type."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt plus output of one request, in tokens."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Sequences that run at once. Above the number of cache blocks the engine refuses to start."""
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    """Tokens per engine step: the budget of prefill chunks."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of the device's memory that the engine may use."""
    kv_cache_memory_bytes: int | None = Field(default=None, ge=1)
    """Bytes of the cache pool of one device. If set, it is not estimated, and profiling is skipped."""
    tensor_parallel_size: int = Field(default=1, ge=1, le=1024)
    """Devices that share each layer."""
    pipeline_parallel_size: int = Field(default=1, ge=1, le=1024)
    """Pipeline stages that the layers are split into."""
    enable_prefix_caching: bool | None = None
    """Reuse shared prompt prefixes. On a hybrid it needs more state blocks (mode align instead of none)."""
    prefix_match_unit: int | None = Field(default=None, ge=1)
    """Smallest cacheable prefix in tokens; must divide the block size. If empty, the plan sets it where its hits were
    tested, and elsewhere a prefix is at least one block."""
    mamba_cache_mode: Literal["none", "align", "all"] | None = None
    """How SSM states are cached; if empty, it follows prefix caching."""
    mamba_cache_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Type of the conv state."""
    mamba_ssm_cache_dtype: Literal["auto", "float32", "float16", "bfloat16"] | None = None
    """Type of the SSM state; if empty, float32 where the setting has an effect."""
    enable_mamba_cache_stochastic_rounding: bool = False
    """Stochastic rounding of a float16 SSM state."""
    kv_cache_dtype: str = "auto"
    """Type of the attention cache, such as auto or fp8."""
    block_size: int | None = Field(default=None, ge=1)
    """Attention block size in tokens. Leave it empty: the plan sets it on CPU, where vLLM resets it; elsewhere the
    engine aligns it to the state page."""
    watermark: float | None = Field(default=None, ge=0, lt=1)
    """Share of cache blocks kept free on admission."""
    max_num_queued_reqs: int | None = Field(default=None, ge=1)
    """Requests that may wait in the engine; more are refused with 503."""
    enforce_eager: bool | None = None
    """Run without CUDA graphs."""
    seed: int = 0
    """Seed of the engine's sampler."""
    reasoning_parser: str | None = None
    """Parser that separates reasoning from content; if empty, the catalog's."""
    tool_call_parser: str | None = None
    """Parser of tool calls; if empty, the catalog's."""
    chat_template: str | None = None
    """File that replaces the model's chat template. A license may restrict this: see `hybridserve check`."""
    trust_remote_code: bool = False
    """Allow Python code that is part of the checkpoint to run."""
    hf_overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields of config.json to override."""
    logits_processors: tuple[str, ...] = ()
    """Qualified names of logits processors."""
    speculative_config: dict[str, Any] | None = None
    """Speculative decoding, as vLLM's JSON."""
    kv_transfer_config: dict[str, Any] | None = None
    """KV connector, as vLLM's JSON."""
    extra_args: dict[str, Any] = Field(default_factory=dict)
    """Other engine arguments under vLLM's names (max_logprobs: 20). vLLM refuses unknown ones at start."""
