"""Warnings about a plan that starts but may not behave as expected."""

from __future__ import annotations

from hybridserve.catalog.engines import EngineTable
from hybridserve.planning.cache.groups import stages_without_attention
from hybridserve.planning.cache.types import CacheLayout, CachePlan, CacheRequest
from hybridserve.planning.cache.validation import state_kind
from hybridserve.planning.models.architecture import Architecture

WASTEFUL_PADDING = 20.0
# A request close to the longest that fits can be prefilled almost to its end, preempted, and prefilled again, forever.
NEAR_LIMIT = 0.95


def layout_warnings(
    arch: Architecture, request: CacheRequest, table: EngineTable, layout: CacheLayout
) -> tuple[str, ...]:
    """Warnings that do not depend on the size of the pool."""
    warnings = [f"not counted: {part}" for part in arch.uncounted]
    if arch.state is None:
        return tuple(warnings)
    asked = request.mamba_cache_mode
    if asked not in (None, layout.mode):
        why = "this architecture does not support it" if request.enable_prefix_caching else "prefix caching is off"
        warnings.append(f"mamba_cache_mode {asked} becomes {layout.mode}: {why}")
    if layout.mode == "all":
        warnings.append(
            "mamba_cache_mode all keeps one state per block of every sequence: far fewer sequences fit than with align"
        )
    if layout.padding_percent > WASTEFUL_PADDING:
        chosen = request.block_size and not table.resets_block_size(request.platform)
        cause = " because of block_size; leave block_size empty" if chosen else ""
        warnings.append(f"padding makes the state page {layout.padding_percent:.1f} % larger{cause}")
    if stages := stages_without_attention(arch, request.pipeline_parallel_size):
        tokens = min(group.block_tokens for group in layout.groups)
        warnings.append(
            f"pipeline stage {stages[0]} has no attention layer: the engine leaves its state blocks unaligned at "
            f"{tokens} tokens, in separate groups"
        )
    if request.num_speculative_tokens:
        warnings.append(
            "speculative decoding on a hybrid adds state blocks, and has corrupted output in several releases"
        )
    kind = state_kind(arch.state)
    warnings += [
        f"vLLM {table.version} on {request.platform}: {fault.what}"
        for fault in table.known_faults
        if request.platform in fault.platforms and layout.mode in fault.modes and kind in fault.mixers
    ]
    return tuple(warnings)


def plan_warnings(plan: CachePlan, request: CacheRequest) -> tuple[str, ...]:
    """Warnings that depend on how much fits."""
    warnings = []
    if plan.layout.state_layers and plan.blocks_per_sequence > NEAR_LIMIT * (plan.num_blocks - 1):
        warnings.append(
            f"one request of max_model_len {plan.max_model_len} takes {plan.blocks_per_sequence} of "
            f"{plan.num_blocks - 1} blocks: a request of that size may be preempted and prefilled repeatedly"
        )
    if request.max_num_seqs is not None and request.max_num_seqs > plan.num_blocks:
        warnings.append(f"max_num_seqs {request.max_num_seqs} is above the number of blocks ({plan.num_blocks})")
    return tuple(warnings)
