"""A correction of vLLM 0.29's copies of cache blocks, loaded by vLLM as the plugin `hybridserve`.

A hit inside a block (`prefix_match_unit`) copies the block, for each view of the cache that
`vllm.v1.worker.utils.copy_kv_cache_blocks_inplace` is given. Of views that begin at the same address it copies only the
first. On a hybrid a state and keys and values share their memory, and the state's view comes first and is shorter than
the block: the last part of the keys and values is not copied, and attention reads another request's. With the longest
view first the whole block is copied. Not needed once vLLM copies the longest one itself; the contract test is in
tests/engine/test_block_copies.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

NAME = "copy_kv_cache_blocks_inplace"
IMPORTERS = ("vllm.v1.worker.utils", "vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu.model_runner")


def register() -> None:
    """Correct the function in this process. vLLM calls this in each of its processes, possibly more than once."""
    from vllm.v1.worker import utils

    original = getattr(utils, NAME, None)
    if original is None or hasattr(original, "original"):
        return

    def copy(kv_caches: Iterable[Any], num_blocks: int, copies: Any) -> None:
        original(sorted(kv_caches, key=lambda cache: block_bytes(cache, num_blocks), reverse=True), num_blocks, copies)

    copy.original = original  # type: ignore[attr-defined]
    for name in IMPORTERS:
        module = sys.modules.get(name)
        if module is not None and hasattr(module, NAME):
            setattr(module, NAME, copy)


def block_bytes(cache: Any, num_blocks: int) -> int:
    """Bytes of a scheduler block in a view whose first dimension counts kernel blocks."""
    return int(cache.numel() * cache.element_size() // num_blocks)
