"""vLLM's copies of cache blocks, with and without the correction of `hybridserve.engine.patches.block_copies`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch

from hybridserve.engine.patches import block_copies

pytestmark = pytest.mark.engine
BLOCKS, BLOCK, STATE = 6, 96, 64
"""Bytes of a block, and of the state in it: less, because keys and values need more room."""


def views() -> list[torch.Tensor]:
    """A state and keys and values at the same addresses, in a storage with a second pair, as on the CPU engine."""
    storage = torch.zeros(2 * BLOCKS * BLOCK, dtype=torch.int8)
    rows = [storage[i * BLOCKS * BLOCK :][: BLOCKS * BLOCK].view(BLOCKS, BLOCK) for i in range(2)]
    for row in rows:
        row[1] = 7
    return [view for row in rows for view in (row[:, :STATE], row)]


def copied(copy: Callable[..., None]) -> list[int]:
    caches = views()
    copy(caches, BLOCKS, [(1, 3)])
    return [int((cache[3] == 7).sum()) for cache in caches]


def test_vllm_copies_only_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, vLLM copies whole blocks itself and the correction can go."""
    from vllm.v1.worker import gpu_model_runner, utils

    loaded: Any = utils.copy_kv_cache_blocks_inplace
    original = getattr(loaded, "original", loaded)  # another test may have loaded the plugin
    assert copied(original) == [STATE, STATE, STATE, STATE]
    monkeypatch.setattr(utils, block_copies.NAME, original)
    monkeypatch.setattr(gpu_model_runner, block_copies.NAME, original)
    block_copies.register()
    block_copies.register()
    for module in (utils, gpu_model_runner):
        assert copied(getattr(module, block_copies.NAME)) == [STATE, BLOCK, STATE, BLOCK]


def test_vllm_finds_the_plugin() -> None:
    (plugin,) = [entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "hybridserve"]
    assert plugin.load() is block_copies.register
