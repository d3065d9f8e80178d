"""Which layers share a block table, and how many bytes a block has on each pipeline stage.

Source: vLLM v1/core/kv_cache_utils.py `_get_kv_cache_groups_uniform_page_size`, `_project_kv_cache_groups_to_worker`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hybridserve.errors import PlanRefused
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.pages import Page
from hybridserve.planning.cache.types import CacheGroup, GroupKind, cdiv
from hybridserve.planning.models.architecture import Architecture
from hybridserve.planning.parallelism import split_layers
from hybridserve.units import counted


@dataclass(frozen=True, slots=True)
class Grouping:
    """Groups of the whole model and the bytes of a block on each stage."""

    groups: tuple[CacheGroup, ...]
    padding_layers: int
    stage_block_bytes: tuple[int, ...]


def group_layers(arch: Architecture, page: Page, stages: int, unaligned_tokens: int) -> Grouping:
    """Split the layers of each kind into groups of equal size, round-robin so that pipeline stages stay balanced.

    The group size is the number of layers of the rarest kind, or of the most frequent kind if it has fewer than 1.5
    times as many (vLLM's rule).

    Args:
        unaligned_tokens: tokens of a state block on a stage without an attention layer to align to.

    Raises:
        PlanRefused: a stage has no layer with a cache, or a layer without one whose layer to share is elsewhere.
    """
    ranges = _stage_ranges(len(arch.layers), stages)
    for start, end in ranges if stages > 1 else ():
        _check_shared(arch, start, end)
    layers_by_kind = _layers_by_kind(arch, page, ranges, unaligned_tokens)
    counts = [len(layers) for layers in layers_by_kind.values()]
    smallest, largest = min(counts), max(counts)
    size = largest if largest < 1.5 * smallest else smallest
    groups: list[CacheGroup] = []
    most_layers = [0] * stages
    for (kind, tokens), layers in layers_by_kind.items():
        number = cdiv(len(layers), size)
        for first in range(number):
            members = layers[first::number]
            groups.append(CacheGroup(kind, len(members), tokens))
            for stage, (start, end) in enumerate(ranges):
                most_layers[stage] = max(most_layers[stage], sum(start <= layer < end for layer in members))
    if 0 in most_layers:
        raise PlanRefused(
            "engine.pipeline_parallel_size",
            f"stage {most_layers.index(0)} of {stages} has no attention or Mamba layer, so it needs no cache, which "
            "the engine does not support",
            fewer_stages(arch, stages, lambda count: not _stage_without_cache(arch, count)),
        )
    padding = sum(-count % size for count in counts)
    return Grouping(tuple(groups), padding, tuple(layers * page.bytes for layers in most_layers))


def fewer_stages(arch: Architecture, stages: int, fits: Callable[[int], bool]) -> str:
    """The fix for too many pipeline stages: the most that fit, at most one per layer. One stage always fits."""
    most = min(stages - 1, len(arch.layers))
    return f"at most {counted(next((count for count in range(most, 1, -1) if fits(count)), 1), 'stage')}"


def _stage_without_cache(arch: Architecture, stages: int) -> bool:
    """Whether a stage has neither a state layer nor an attention layer with a cache of its own."""
    return not all(
        any(layer.state or (layer.attention and not layer.shared) for layer in arch.layers[start:end])
        for start, end in _stage_ranges(len(arch.layers), stages)
    )


def stages_without_attention(arch: Architecture, stages: int) -> tuple[int, ...]:
    """Stages with state layers but no attention layer, so their state blocks cannot be aligned to attention blocks.

    None in a model without attention, where nothing is aligned.
    """
    if arch.attention is None:
        return ()
    return tuple(
        stage
        for stage, (start, end) in enumerate(_stage_ranges(len(arch.layers), stages))
        if any(layer.state for layer in arch.layers[start:end])
        and not any(layer.attention for layer in arch.layers[start:end])
    )


def stage_without_experts(arch: Architecture, stages: int) -> int | None:
    """Number, from one, of the first stage without a layer of experts."""
    for number, (start, end) in enumerate(_stage_ranges(len(arch.layers), stages), 1):
        if not any(layer.moe for layer in arch.layers[start:end]):
            return number
    return None


def _layers_by_kind(
    arch: Architecture, page: Page, ranges: list[tuple[int, int]], unaligned_tokens: int
) -> dict[tuple[GroupKind, int], list[int]]:
    """Indices of the layers of each kind of block, in order of appearance; within a layer, attention comes first."""
    layers_by_kind: dict[tuple[GroupKind, int], list[int]] = {}
    if arch.attention_first:
        layers_by_kind["attention", page.block_size] = []
    for start, end in ranges:
        layers = arch.layers[start:end]
        aligned = any(layer.attention for layer in layers)
        for index, layer in enumerate(layers, start):
            if layer.attention and not layer.shared:
                kind: tuple[GroupKind, int] = (
                    ("window", page.window_block) if layer.window else ("attention", page.block_size)
                )
                layers_by_kind.setdefault(kind, []).append(index)
            if layer.state:
                assert page.mamba_block_size is not None
                tokens = page.mamba_block_size if aligned else unaligned_tokens
                layers_by_kind.setdefault(("state", tokens), []).append(index)
    return layers_by_kind


def _check_shared(arch: Architecture, start: int, end: int) -> None:
    """Refuse a stage with a layer that shares the cache of one on another stage.

    Source: vLLM layers/attention/attention.py `validate_kv_sharing_target`.
    """
    for number, layer in enumerate(arch.layers[start:end], start):
        if layer.shared:
            own = replace(layer, shared=False)
            target = max(index for index, other in enumerate(arch.layers[:number]) if other == own)
            if target < start:
                raise PlanRefused(
                    "engine.pipeline_parallel_size",
                    f"Specified KV sharing target layer for layer {number} is not valid: target layer {target} is on "
                    "another stage",
                    "1, or stages of which one has all layers that share a cache",
                )


def _stage_ranges(layers: int, stages: int) -> list[tuple[int, int]]:
    """(First layer, end) of each stage."""
    ranges, start = [], 0
    for length in split_layers(layers, stages):
        ranges.append((start, start + length))
        start += length
    return ranges
