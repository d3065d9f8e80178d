"""How vLLM divides the cache memory of one model into pages, groups and blocks, and how much fits.

Given the bytes of the pool, `plan_cache` returns the integers that the engine prints.
Source: vLLM v1/core/kv_cache_utils.py, v1/kv_cache_interface.py, config/vllm.py.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd, lcm

from hybridserve.catalog.engines import CacheMode, EngineTable, engine_table
from hybridserve.errors import PlanRefused
from hybridserve.planning.cache.dtypes import resolve_dtypes
from hybridserve.planning.cache.groups import group_layers
from hybridserve.planning.cache.pages import size_page
from hybridserve.planning.cache.types import AUTO_LEN, CacheGroup, CacheLayout, CachePlan, CacheRequest
from hybridserve.planning.cache.validation import checkpoint_tokens, resolve_mode, state_kind
from hybridserve.planning.cache.warnings import layout_warnings, plan_warnings
from hybridserve.planning.models.architecture import UNLIMITED, Architecture
from hybridserve.planning.parallelism import check_tensor_parallel
from hybridserve.units import format_gib

# CacheConfig.DEFAULT_BLOCK_SIZE: the block size of a worker when nothing aligns its blocks.
UNALIGNED_BLOCK = 16


def compute_layout(arch: Architecture, request: CacheRequest) -> CacheLayout:
    """The block layout of a model under these settings. `request.kv_bytes` is not used.

    Raises:
        PlanRefused: the engine would refuse these settings; the message is its own.
    """
    table, foreign = engine_table(request.engine)
    max_len = _configured_length(request, model_context(arch, table), arch.default_context)
    check_tensor_parallel(arch, request.tensor_parallel_size, replayssm=request.use_replayssm)
    mode = resolve_mode(arch, request, table, max_len)
    dtypes = resolve_dtypes(arch, request, table)
    checkpoint = checkpoint_tokens(arch, request, table, mode)
    page = size_page(arch, request, table, dtypes, mode, max_len, checkpoint)
    unaligned = max_len if mode == "none" else request.mamba_block_size or request.block_size or UNALIGNED_BLOCK
    grouping = group_layers(arch.cached, page, request.pipeline_parallel_size, unaligned)
    budgeted = {
        "none": table.state_blocks_none,
        "align": table.state_blocks_align[state_kind(arch.state)] + bool(checkpoint) if arch.state else 0,
        "all": 0,
    }[mode]
    running = 0 if mode == "all" else table.state_blocks_running
    speculated = request.num_speculative_tokens
    layout = CacheLayout(
        engine=table.version,
        mode=mode,
        block_size=page.block_size,
        mamba_block_size=page.mamba_block_size,
        page_bytes=page.bytes,
        state_bytes=page.state_bytes,
        padding_percent=page.padding_percent,
        token_bytes=page.token_bytes,
        groups=grouping.groups,
        padding_layers=grouping.padding_layers,
        stage_block_bytes=grouping.stage_block_bytes,
        state_blocks=budgeted + speculated,
        running_state_blocks=running + speculated,
        window_tokens=_window_tokens(arch, request),
        prefix_unit=_prefix_unit(request, mode, grouping.groups, table.prefix_match_unit_checked_for_one_group),
        attention_layers=arch.cached.attention_layers,
        state_layers=arch.state_layers,
        max_model_len=max_len,
        kv_cache_dtype=dtypes.attention,
        mamba_ssm_cache_dtype=dtypes.ssm if arch.hybrid else None,
        warnings=(),
    )
    warnings = ((foreign,) if foreign else ()) + layout_warnings(arch, request, table, layout)
    return replace(layout, warnings=warnings)


def plan_cache(arch: Architecture, request: CacheRequest) -> CachePlan:
    """The cache plan for `request.kv_bytes` bytes per device.

    Raises:
        PlanRefused: the engine would refuse to start; the message is its own.
    """
    layout = compute_layout(arch, request)
    stage_bytes = [
        request.kv_bytes if request.num_gpu_blocks_override is None else request.num_gpu_blocks_override * block
        for block in layout.stage_block_bytes
    ]
    stage_blocks = [memory // block for memory, block in zip(stage_bytes, layout.stage_block_bytes, strict=True)]
    num_blocks = min(stage_blocks)
    longest = _longest(layout, num_blocks, model_context(arch, engine_table(request.engine)[0]))
    length = layout.max_model_len
    if request.max_model_len == AUTO_LEN:
        if not longest:
            raise PlanRefused(
                "engine.max_model_len",
                "Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token",
                f"at least {format_gib(_needed(layout, 1))} of cache memory",
            )
        length = longest
    for memory, blocks, block in zip(stage_bytes, stage_blocks, layout.stage_block_bytes, strict=True):
        if layout.blocks_per_sequence(length) > blocks - 1:
            raise _too_small(layout, length, memory - block, block, _longest(layout, blocks, length))
    seqs = request.max_num_seqs
    if (
        arch.hybrid
        and request.platform == "cuda"
        and request.full_cudagraphs
        and seqs is not None
        and seqs > num_blocks
    ):
        raise PlanRefused(
            "engine.max_num_seqs",
            f"max_num_seqs ({seqs}) exceeds available Mamba cache blocks ({num_blocks}). Each decode sequence requires "
            "one Mamba cache block, so CUDA graph capture cannot proceed",
            f"at most {num_blocks}, more cache memory, or no full graphs",
        )
    concurrency = num_blocks / layout.blocks_per_sequence(length)
    plan = CachePlan(
        layout=layout,
        kv_bytes=request.kv_bytes,
        num_blocks=num_blocks,
        max_model_len=length,
        tokens=int(concurrency * length),
        concurrency=concurrency,
        longest_context=longest,
        warnings=(),
    )
    return replace(plan, warnings=layout.warnings + plan_warnings(plan, request))


def model_context(arch: Architecture, table: EngineTable) -> int:
    """Longest context of the model, as this engine version derives it from the config."""
    if arch.yarn_context is not None and table.yarn_scales_context:
        return arch.yarn_context
    return arch.max_position_embeddings


def _window_tokens(arch: Architecture, request: CacheRequest) -> int:
    """Source: vLLM v1/kv_cache_interface.py SlidingWindowSpec, config/vllm.py `max_in_flight_tokens`.

    On CUDA scheduling is asynchronous, so one step more than the pipeline has stages is in flight; not with n-gram
    speculation.
    """
    if arch.window is None:
        return 0
    drafts = arch.uses_mtp or arch.draft is not None
    asynchronous = request.platform == "cuda" and (drafts or not request.num_speculative_tokens)
    steps = request.pipeline_parallel_size + asynchronous
    return arch.window - 1 + steps * request.max_num_batched_tokens


def _configured_length(request: CacheRequest, own: int, default: int | None) -> int:
    asked = request.max_model_len
    if asked == AUTO_LEN and own == UNLIMITED:
        raise PlanRefused(
            "engine.max_model_len",
            "max_model_len must be a positive integer, got int: -1 (the model's config names no context)",
            f"a number of tokens; without one, {default}",
        )
    if asked is None or asked == AUTO_LEN:
        return default or own
    if asked < 1:
        raise PlanRefused("engine.max_model_len", f"{asked} is not a length", f"1 to {own}, or -1 for what fits")
    if asked > own:
        raise PlanRefused(
            "engine.max_model_len",
            f"User-specified max_model_len ({asked}) is greater than the derived max_model_len "
            f"(max_position_embeddings={own})",
            f"1 to {own}, or -1 for what fits",
        )
    return asked


def _prefix_unit(
    request: CacheRequest, mode: CacheMode, groups: tuple[CacheGroup, ...], checked_for_one: bool
) -> int | None:
    """Source: vLLM v1/core/kv_cache_utils.py `resolve_kv_cache_block_sizes`."""
    if not request.enable_prefix_caching:
        return None
    sizes, unit = [group.block_tokens for group in groups], request.prefix_match_unit
    if len(sizes) == 1:
        if checked_for_one and unit not in (None, sizes[0]):
            raise PlanRefused(
                "engine.prefix_match_unit",
                f"Invalid prefix_match_unit={unit}; with a single KV cache group, prefix-cache hits land on the block "
                f"size ({sizes[0]})",
                f"leave it empty or set {sizes[0]}",
            )
        return sizes[0]
    if mode == "all":
        return lcm(*sizes)
    if unit is None:
        return gcd(*sizes)
    if any(size % unit for size in sizes):
        raise PlanRefused(
            "engine.prefix_match_unit",
            f"Invalid prefix_match_unit={unit}; prefix-cacheable KV cache group block sizes must be divisible by "
            f"prefix_match_unit. Got group block sizes={sorted(set(sizes))}",
            f"a divisor of {gcd(*sizes)}, such as {_divisors(gcd(*sizes))}",
        )
    return unit


def _divisors(number: int) -> str:
    """The powers of two from 16 to 512 that divide `number`, or the number itself."""
    return ", ".join(str(1 << power) for power in range(4, 10) if number % (1 << power) == 0) or str(number)


def _longest(layout: CacheLayout, blocks: int, limit: int) -> int:
    """The longest sequence, up to `limit`, that passes the start-up check with `blocks` blocks; 0 if none does.

    One block is the null block, which no sequence can use.
    """
    fits, too_long = 0, limit + 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if layout.blocks_per_sequence(middle) <= blocks - 1:
            fits = middle
        else:
            too_long = middle
    return fits


def _needed(layout: CacheLayout, length: int) -> int:
    return (layout.blocks_per_sequence(length) + 1) * layout.bytes_per_block


def _too_small(layout: CacheLayout, length: int, available: int, block: int, longest: int) -> PlanRefused:
    if available <= 0:
        return PlanRefused(
            "engine.kv_cache_memory_bytes",
            "No available memory for the cache blocks",
            f"at least {format_gib(_needed(layout, length))} of cache memory on each device",
        )
    estimate = f". The estimated maximum model length is {longest}" if longest else ""
    return PlanRefused(
        "engine.max_model_len",
        f"To serve at least one request with the model's max seq len ({length}), "
        f"{format_gib(layout.blocks_per_sequence(length) * block)} KV cache is needed, which is larger than the "
        f"available KV cache memory ({format_gib(available)}){estimate}",
        f"a max_model_len of at most {longest}, or at least {format_gib(_needed(layout, length))} of cache memory"
        if longest
        else f"at least {format_gib(_needed(layout, length))} of cache memory on each device",
    )
