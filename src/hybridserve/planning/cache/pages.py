"""The page: the part of a block that belongs to one layer. Attention and state pages have the same size.

The engine extends the attention block until its page covers one state, then pads the state to the page.
Source: vLLM platforms/interface.py `_align_hybrid_block_size`, model_executor/layers/mamba/mamba_utils.py.
"""

from __future__ import annotations

from math import lcm

from hybridserve.catalog.engines import CacheMode, EngineTable
from hybridserve.errors import PlanRefused
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.dtypes import CacheDtypes, aligned_dtypes
from hybridserve.planning.cache.types import CacheRequest, cdiv
from hybridserve.planning.models.architecture import (
    Architecture,
    Attention,
    GatedDeltaNet,
    KimiDelta,
    Lightning,
    Mamba1,
    Mamba2,
    ShortConv,
    StateMixer,
)

# Blocks of latent attention are a multiple of this in a hybrid.
LATENT_UNIT = 128


@dataclass(frozen=True, slots=True)
class Page:
    """Sizes of one layer's page on one rank. See `CacheLayout` for the fields."""

    block_size: int
    window_block: int
    mamba_block_size: int | None
    token_bytes: int
    state_bytes: int
    bytes: int
    padding_percent: float


def size_page(
    arch: Architecture,
    request: CacheRequest,
    table: EngineTable,
    dtypes: CacheDtypes,
    mode: CacheMode,
    max_len: int,
    checkpoint: int | None = None,
) -> Page:
    """The page of a model under these settings.

    Args:
        checkpoint: tokens whose multiple a block is, from `checkpoint_tokens`.
        max_len: longest request as configured; a state block of mode none covers that many tokens.

    Raises:
        PlanRefused: the state with its speculative tokens is larger than the page.
    """
    block = request.block_size or table.default_block_size[request.platform]
    if arch.attention is None and arch.state is not None:
        return _state_page(arch.state, request, dtypes, mode, max_len, block)
    assert arch.attention is not None
    token_bytes = attention_token_bytes(arch.attention, request.tensor_parallel_size, dtypes)
    if arch.state is None:
        window = attention_token_bytes(arch.window_attention or arch.attention, request.tensor_parallel_size, dtypes)
        smallest = table.kernel_block_size[request.platform] if table.window_has_smallest_block else block
        return _attention_page(block, token_bytes, smallest, window)

    speculated = request.num_speculative_tokens
    state = state_bytes(arch.state, request, dtypes, speculated)
    not_aligned_to = arch.name in table.speculation_not_in_page
    of = aligned_dtypes(arch, request, table, dtypes)
    aligned = state_bytes(arch.state, request, of, 0 if not_aligned_to else speculated)
    unit = max(table.kernel_block_size[request.platform], block)
    if arch.attention.latent:
        unit = max(unit, LATENT_UNIT)
    if mode == "all":
        chunk = arch.state.chunk if isinstance(arch.state, Mamba2) else table.default_mamba_chunk_size
        unit = lcm(request.mamba_block_size or chunk, unit)
    unit = lcm(unit, checkpoint or 1)
    covering = unit * cdiv(aligned, unit * token_bytes)
    block = max(block, covering)
    page = block * token_bytes
    padding = 100 * (page - aligned) / aligned
    if state > page == aligned:
        # The engine does not pad an exact fit, so a state that grows later makes it pad the attention page instead.
        page = state
    if state > page:
        raise PlanRefused(
            "engine.num_speculative_tokens" if speculated else "engine.mamba_ssm_cache_dtype",
            f"a state with {speculated} speculative tokens takes {state} bytes, more than the page of {page} bytes "
            "the engine aligns to",
            "use fewer speculative tokens, or none" if speculated else "float32",
        )
    tokens_per_state = {"align": block, "all": covering, "none": max_len}[mode]
    return Page(block, block, tokens_per_state, token_bytes, state, page, padding)


def _attention_page(block: int, token_bytes: int, window_block: int, window_bytes: int) -> Page:
    """The page of a model without state.

    The smaller of both pages grows to the larger one, by more tokens if that comes out even and else by padding.

    Source: vLLM v1/core/kv_cache_utils.py `unify_kv_cache_spec_page_size`, layers/attention `get_kv_cache_spec`.
    """
    page = max(block * token_bytes, window_block * window_bytes)
    if page % (block * token_bytes) == 0:
        block = page // token_bytes
    if page % (window_block * window_bytes) == 0:
        window_block = page // window_bytes
    return Page(block, window_block, None, token_bytes, 0, page, 0.0)


def _state_page(
    mixer: StateMixer, request: CacheRequest, dtypes: CacheDtypes, mode: CacheMode, max_len: int, block: int
) -> Page:
    """The page of a model without attention: one state, which nothing aligns.

    Source: vLLM models/config.py MambaModelConfig.
    """
    state = state_bytes(mixer, request, dtypes, request.num_speculative_tokens)
    tokens = max_len if mode == "none" else request.mamba_block_size or block
    return Page(tokens, tokens, tokens, 0, state, state, 0.0)


def attention_token_bytes(attention: Attention, tp: int, dtypes: CacheDtypes) -> int:
    """Bytes of keys and values of one token in one attention layer, on one rank. With fewer heads than ranks, heads are
    replicated."""
    if attention.latent:
        return attention.head_dim * dtypes.attention_bytes
    heads = max(1, attention.kv_heads // tp)
    return heads * 2 * (attention.head_dim * dtypes.attention_bytes + dtypes.attention_scale_bytes)


def state_bytes(mixer: StateMixer, request: CacheRequest, dtypes: CacheDtypes, speculated: int) -> int:
    """Bytes of the conv and recurrent state of one layer on one rank."""
    tp = request.tensor_parallel_size
    match mixer:
        case Mamba2():
            groups = mixer.groups if mixer.groups % tp == 0 else tp
            conv = (mixer.conv_kernel - 1 + speculated) * (mixer.inner + 2 * groups * mixer.state) // tp
            ssm = mixer.heads // tp * mixer.head_dim * mixer.state
        case GatedDeltaNet():
            width = 2 * mixer.key_heads * mixer.key_dim + mixer.value_heads * mixer.value_dim
            conv = (mixer.conv_kernel - 1 + speculated) * width // tp
            ssm = mixer.value_heads // tp * mixer.value_dim * mixer.key_dim
        case Mamba1():
            conv = (mixer.conv_kernel - 1) * mixer.inner // tp
            ssm = mixer.inner // tp * mixer.state
        case ShortConv():
            conv, ssm = (mixer.conv_kernel - 1 + speculated) * mixer.width // tp, 0
        case KimiDelta():
            conv = (mixer.conv_kernel - 1 + speculated) * 3 * mixer.inner // tp
            ssm = mixer.heads // tp * mixer.head_dim**2
        case Lightning():
            conv, ssm = 0, mixer.heads // tp * mixer.head_dim**2
    size = conv * dtypes.conv_bytes + ssm * dtypes.ssm_bytes
    if request.use_replayssm and isinstance(mixer, Mamba2):
        # Ring of the last inputs: x (heads, B, head_dim), dt (heads, B) in float32, B (groups, B, state).
        ring = mixer.heads // tp * mixer.head_dim + mixer.groups // tp * mixer.state
        size += request.replayssm_buffer_len * (ring * dtypes.model_bytes + mixer.heads // tp * 4)
    return size
