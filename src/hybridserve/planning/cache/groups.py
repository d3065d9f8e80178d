"""Which layers share a block table, and how many bytes a block takes on each pipeline stage.

Source: vLLM v1/core/kv_cache_utils.py `_get_kv_cache_groups_uniform_page_size`, `_project_kv_cache_groups_to_worker`.
"""

from __future__ import annotations

from hybridserve.errors import PlanRefused
from hybridserve.planning.cache.pages import Page
from hybridserve.planning.cache.types import CacheGroup, GroupKind, cdiv
from hybridserve.planning.models.architecture import Architecture
from hybridserve.planning.parallelism import split_layers
from hybridserve.records import dataclass


@dataclass(frozen=True, slots=True)
class Grouping:
    """Groups of the whole model and the bytes of a block on each stage."""

    groups: tuple[CacheGroup, ...]
    padding_layers: int
    stage_block_bytes: tuple[int, ...]


def group_layers(arch: Architecture, page: Page, stages: int, unaligned_tokens: int) -> Grouping:
    """Groups of equal size for each kind of block, dealt out in turn so that pipeline stages stay even.

    Args:
        unaligned_tokens: tokens of a state block on a stage that has no attention layer to align to.

    Raises:
        PlanRefused: a stage holds no layer with a cache.
    """
    ends = _stage_ends(len(arch.layers), stages)
    owners = _owners(arch, page, ends, unaligned_tokens)
    counts = [len(layers) for layers in owners.values()]
    fewest, most = min(counts), max(counts)
    size = most if most < 1.5 * fewest else fewest
    groups: list[CacheGroup] = []
    fullest = [0] * stages
    for (kind, tokens), layers in owners.items():
        number = cdiv(len(layers), size)
        for first in range(number):
            members = layers[first::number]
            groups.append(CacheGroup(kind, len(members), tokens))
            for stage, (start, end) in enumerate(ends):
                fullest[stage] = max(fullest[stage], sum(start <= layer < end for layer in members))
    if 0 in fullest:
        raise PlanRefused(
            "engine.pipeline_parallel_size",
            f"stage {fullest.index(0)} of {stages} holds no attention or Mamba layer, so it has no cache to size",
            f"fewer stages: the model has {len(arch.layers)} layers, {sum(counts)} caches",
        )
    padding = sum(-count % size for count in counts)
    return Grouping(tuple(groups), padding, tuple(layers * page.bytes for layers in fullest))


def stages_without_attention(arch: Architecture, stages: int) -> tuple[int, ...]:
    """Pipeline stages with state layers and no attention layer: their workers find nothing to align to."""
    return tuple(
        stage
        for stage, (start, end) in enumerate(_stage_ends(len(arch.layers), stages))
        if any(layer.state for layer in arch.layers[start:end])
        and not any(layer.attention for layer in arch.layers[start:end])
    )


def _owners(
    arch: Architecture, page: Page, ends: list[tuple[int, int]], unaligned_tokens: int
) -> dict[tuple[GroupKind, int], list[int]]:
    """Indices of the layers of each kind of block, in order of appearance, attention first within a layer."""
    owners: dict[tuple[GroupKind, int], list[int]] = {}
    for start, end in ends:
        layers = arch.layers[start:end]
        aligned = any(layer.attention for layer in layers)
        for index, layer in enumerate(layers, start):
            if layer.attention:
                owners.setdefault(("attention", page.block_size), []).append(index)
            if layer.state:
                assert page.mamba_block_size is not None
                tokens = page.mamba_block_size if aligned else unaligned_tokens
                owners.setdefault(("state", tokens), []).append(index)
    return owners


def _stage_ends(layers: int, stages: int) -> list[tuple[int, int]]:
    ends, start = [], 0
    for length in split_layers(layers, stages):
        ends.append((start, start + length))
        start += length
    return ends
