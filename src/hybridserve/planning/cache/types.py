"""The cache planner's data: what it is given (`CacheRequest`) and what it returns (`CacheLayout`, `CachePlan`)."""

from __future__ import annotations

from typing import Literal

from hybridserve.catalog.engines import CacheMode
from hybridserve.fast_dataclass import dataclass

GroupKind = Literal["attention", "window", "state"]
AUTO_LEN = -1
"""`--max-model-len -1`: the engine uses the longest context that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRequest:
    """The engine arguments that determine the cache, under vLLM's names. None means the engine's default.

    Attributes:
        engine: vLLM version. An unknown version is planned with the nearest table, and the plan warns.
        kv_bytes: bytes of the cache pool of each device.
        enable_prefix_caching: the engine's default is on for generative models.
        max_model_len: None is the model's own; `AUTO_LEN` (-1) is the longest that fits.
        max_num_seqs: None is not checked against the number of blocks.
        max_num_batched_tokens: a sliding-window layer keeps the tokens of the steps in flight besides its window.
        full_cudagraphs: graphs that cover the whole step (the default on CUDA); they need one block per sequence.
        avx512_bf16: CPU only; the state is then float32 unless a type is set.
        compute_capability: of the GPU, such as "9.0": some kernels add cache blocks; None is a GPU without them.
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
    max_num_batched_tokens: int = 2048
    num_speculative_tokens: int = 0
    use_replayssm: bool = False
    replayssm_buffer_len: int = 16
    num_gpu_blocks_override: int | None = None
    full_cudagraphs: bool = True
    avx512_bf16: bool = False
    compute_capability: str | None = None


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers that share block tables. One block of the pool serves one group, for all its layers at once."""

    kind: GroupKind
    layers: int
    block_tokens: int
    """Tokens one block covers. A state block of mode none covers a sequence of max_model_len."""


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How a block is divided. It depends on the model and the settings, not on the size of the pool.

    Attributes:
        engine: version of the engine table that was used.
        mode: resolved mamba cache mode; `none` for a model without state.
        block_size: tokens of one attention block, after alignment to the state page.
        mamba_block_size: tokens between two cached states; None for a model without state.
        page_bytes: bytes that one layer has in a block, on one rank.
        state_bytes: bytes of one layer's state (conv and ssm), on one rank, before padding; 0 without state.
        padding_percent: how much padding adds to the state page, as the engine prints it.
        token_bytes: bytes of one token in one attention layer, on one rank.
        groups: cache groups of the whole model, in vLLM's order.
        padding_layers: layers added to fill up groups.
        stage_block_bytes: bytes of one block on each pipeline stage.
        state_blocks: blocks that the start-up check budgets for one sequence in each state group. In mode `all`,
            one block per `mamba_block_size` tokens comes on top.
        running_state_blocks: blocks that a decoding sequence uses in each state group (the same in mode `all`).
        window_tokens: most tokens of a sequence that a sliding-window group keeps; 0 without such groups.
        prefix_unit: tokens of the smallest prefix that can be cached; None without prefix caching.
        max_model_len: longest request as configured, before any auto-fit.
        kv_cache_dtype: resolved type of the attention cache.
        mamba_ssm_cache_dtype: resolved type of the recurrent state; None without state.
        warnings: sentences for the user.
    """

    engine: str
    mode: CacheMode
    block_size: int
    mamba_block_size: int | None
    page_bytes: int
    state_bytes: int
    padding_percent: float
    token_bytes: int
    groups: tuple[CacheGroup, ...]
    padding_layers: int
    stage_block_bytes: tuple[int, ...]
    state_blocks: int
    running_state_blocks: int
    window_tokens: int
    prefix_unit: int | None
    attention_layers: int
    state_layers: int
    max_model_len: int
    kv_cache_dtype: str
    mamba_ssm_cache_dtype: str | None
    warnings: tuple[str, ...]

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block on the fullest pipeline stage."""
        return max(self.stage_block_bytes)

    @property
    def reported_block_size(self) -> int:
        """Label block_size of `vllm:cache_config_info`: the smallest block of all groups."""
        return min(group.block_tokens for group in self.groups)

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
        return self._blocks(length, self.state_blocks)

    def running_blocks(self, length: int) -> int:
        """Blocks that a decoding sequence of `length` tokens uses: what admission counts."""
        return self._blocks(length, self.running_state_blocks)

    def _blocks(self, length: int, state_blocks: int) -> int:
        blocks, window = self.state_groups * state_blocks, min(self.window_tokens, length)
        for group in self.groups:
            if group.kind == "window":
                # A window need not begin at the start of a block: one more.
                blocks += cdiv(window, group.block_tokens) + 1
            elif group.kind == "attention" or self.mode == "all":
                blocks += cdiv(length, group.block_tokens)
        return blocks


@dataclass(frozen=True, slots=True)
class CachePlan:
    """A layout with the number of blocks that the pool has.

    Attributes:
        num_blocks: blocks of the pool, the null block included: label num_gpu_blocks of `vllm:cache_config_info`.
        max_model_len: resolved longest request in tokens.
        tokens: "KV cache size" as printed. It depends on max_model_len.
        concurrency: "Maximum concurrency" as printed, unrounded.
        longest_context: the largest max_model_len that would start, at most the model's own.
        warnings: sentences for the user, with those of the layout.
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
        """Sequences of `length` tokens that can run at once with no preemption possible."""
        return (self.num_blocks - 1) // self.layout.blocks_per_sequence(length)

    def n_steady(self, length: int) -> int:
        """Sequences of `length` tokens that a saturated engine runs; preemptions at block boundaries are rare."""
        return (self.num_blocks - 1) // self.layout.running_blocks(length)


def cdiv(a: int, b: int) -> int:
    """Division, rounded up."""
    return -(-a // b)
