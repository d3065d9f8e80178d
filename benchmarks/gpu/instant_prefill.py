"""A KV connector that gives a request its KV blocks without computing them, so that any batch can start to decode.

The time of a decode step does not depend on the values in the cache. A request with
`kv_transfer_params: {"instant": true}` gets its blocks at once and decodes after one step; others are prefilled. The
cache is filled with random numbers, since zeros could flatter the GPU: once when it is made and, on a hybrid, where
the engine zeroes each block that it allocates, again for the blocks of each instant request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA

SPREAD = 0.02
CHUNK_BYTES = 256 << 20


@dataclass
class Blocks(KVConnectorMetadata):
    """Attention blocks to fill with random numbers before the next step."""

    ids: list[int] = field(default_factory=list)


class InstantPrefill(KVConnectorBase_V1, SupportsHMA):
    """vLLM's connector interface, in the scheduler and in the worker."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._pool = kv_cache_config
        self._given: set[str] = set()
        self._ids: list[int] = []
        self._caches: list[torch.Tensor] = []  # blocks first

    def _attention(self) -> list[int]:
        return [i for i, g in enumerate(self._pool.kv_cache_groups) if "Mamba" not in type(g.kv_cache_spec).__name__]

    # In the worker.

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        # The tensors are the attention layers'. On a hybrid the state layers share their bytes.
        blocks = self._pool.num_blocks
        for cache in kv_caches.values():
            if not isinstance(cache, torch.Tensor) or not cache.is_floating_point() or cache.element_size() < 2:
                continue
            cache.normal_(0.0, SPREAD)
            dims = [d for d in range(min(2, cache.dim())) if cache.shape[d] == blocks]
            if dims:
                self._caches.append(cache.movedim(dims[0], 0))

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        ids = self._get_connector_metadata().ids
        if not ids:
            return
        for cache in self._caches:
            step = max(1, CHUNK_BYTES // max(1, cache[0].numel() * cache.element_size()))
            noise = torch.empty((min(step, len(ids)), *cache.shape[1:]), dtype=cache.dtype, device=cache.device)
            noise.normal_(0.0, SPREAD)
            for begin in range(0, len(ids), step):
                part = torch.tensor(ids[begin : begin + step], device=cache.device)
                cache[part] = noise[: len(part)]

    def wait_for_layer_load(self, layer_name: str) -> None: ...

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None: ...

    def wait_for_save(self) -> None: ...

    # In the scheduler.

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        instant = (request.kv_transfer_params or {}).get("instant")
        if not instant or request.request_id in self._given:
            return 0, False
        return max(0, request.num_tokens - num_computed_tokens - 1), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if not num_external_tokens:
            return
        self._given.add(request.request_id)
        if getattr(self._pool, "needs_kv_cache_zeroing", False):
            groups = blocks.get_block_ids()
            self._ids += [i for g in self._attention() for i in groups[g]]

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        ids, self._ids = self._ids, []
        return Blocks(ids=ids)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        self._given.discard(request.request_id)
        return False, None

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished(request, [])
