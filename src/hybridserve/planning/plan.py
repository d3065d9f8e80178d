"""How vLLM will cut the cache memory of one model: pages, groups, blocks, and what fits into them.

`plan_cache` is exact: given the bytes of the pool it returns the integers the engine will print.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybridserve.planning.architecture import Architecture

AUTO_LEN = -1
"""`--max-model-len -1`: the engine takes the longest context that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRequest:
    """What is asked of the engine, under vLLM's own names. None means the engine's default.

    Attributes:
        engine: vLLM version. An unknown one is planned with the nearest table, and the plan says so.
        kv_bytes: bytes of the cache pool of each device.
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


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers that share block tables. One block of the pool serves one group, for all its layers at once."""

    kind: Literal["attention", "state"]
    layers: int
    block_tokens: int
    """Tokens one block covers; a state block covers all of a sequence except in mode `all`."""


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How a block is cut. It depends on the model and the settings, not on the bytes of the pool.

    Attributes:
        mode: mamba cache mode in force: none, align or all (`none` for a model without state).
        block_size: tokens of one attention block, after alignment to the state page.
        mamba_block_size: tokens between two cached states; None for a model without state.
        page_bytes: bytes of one layer's part of a block, on one rank.
        state_bytes: bytes of one layer's state (conv and ssm), on one rank, before padding; 0 without state.
        padding_percent: what padding adds to the state page.
        token_bytes: bytes of one token in one attention layer, on one rank.
        groups: cache groups of the whole model, in vLLM's order.
        padding_layers: layers by which groups are filled up.
        bytes_per_block: bytes of one block on the fullest pipeline stage.
        state_blocks: blocks each state group takes for one sequence, as budgeted by the start-up check.
        running_state_blocks: blocks each state group really holds while a sequence decodes.
        prefix_unit: tokens of the smallest prefix that can be cached and found again; None without prefix caching.
    """

    engine: str
    mode: Literal["none", "align", "all"]
    block_size: int
    mamba_block_size: int | None
    page_bytes: int
    state_bytes: int
    padding_percent: float
    token_bytes: int
    groups: tuple[CacheGroup, ...]
    padding_layers: int
    bytes_per_block: int
    state_blocks: int
    running_state_blocks: int
    prefix_unit: int | None
    attention_layers: int
    state_layers: int

    @property
    def attention_groups(self) -> int:
        return sum(group.kind == "attention" for group in self.groups)

    @property
    def state_groups(self) -> int:
        return sum(group.kind == "state" for group in self.groups)

    @property
    def kv_bytes_per_token(self) -> int:
        """Attention bytes of one token over all layers, on one rank of a single pipeline stage."""
        return self.token_bytes * self.attention_layers

    @property
    def state_bytes_per_sequence(self) -> int:
        """Bytes of one copy of the state of one sequence as the model needs it, without padding."""
        return self.state_bytes * self.state_layers

    def blocks_per_sequence(self, length: int) -> int:
        """Blocks the start-up check budgets for one sequence of `length` tokens (prompt and output)."""
        raise NotImplementedError

    def running_blocks(self, length: int) -> int:
        """Blocks a decoding sequence of `length` tokens really holds: what admission counts."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class CachePlan:
    """A layout, filled with the bytes of the pool.

    Attributes:
        num_blocks: blocks of the pool, as label num_gpu_blocks of `vllm:cache_config_info`; one is the null block.
        max_model_len: resolved longest request in tokens.
        tokens: "KV cache size" as printed. It depends on max_model_len.
        concurrency: "Maximum concurrency" as printed (unrounded).
        longest_context: the largest max_model_len that would start, capped at the model's own.
        warnings: sentences for people.
    """

    layout: CacheLayout
    kv_bytes: int
    num_blocks: int
    max_model_len: int
    tokens: int
    concurrency: float
    longest_context: int
    warnings: tuple[str, ...]

    @property
    def blocks_per_sequence(self) -> int:
        """Blocks of one request of max_model_len tokens."""
        return self.layout.blocks_per_sequence(self.max_model_len)

    def n_safe(self, length: int) -> int:
        """Sequences of `length` tokens that run at once with no preemption possible."""
        return (self.num_blocks - 1) // self.layout.blocks_per_sequence(length)

    def n_steady(self, length: int) -> int:
        """Sequences of `length` tokens a saturated engine really runs; preemptions at block boundaries are rare."""
        return (self.num_blocks - 1) // self.layout.running_blocks(length)


def lay_out(arch: Architecture, request: CacheRequest) -> CacheLayout:
    """The block layout for a model under these settings. `request.kv_bytes` and lengths of `none` mode aside, no
    memory is involved: use it to learn `bytes_per_block` before the bytes of the pool are known.

    Raises:
        PlanRefused: the engine would refuse these settings, with its own reason.
    """
    raise NotImplementedError


def plan_cache(arch: Architecture, request: CacheRequest) -> CachePlan:
    """What the engine will make of `request.kv_bytes` bytes per device.

    Raises:
        PlanRefused: the engine would refuse to start, with its own reason.
    """
    raise NotImplementedError
