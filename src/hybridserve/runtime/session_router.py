"""Ray Serve's request router for conversations: consistent hashing by session, with bounded load.

Used where Ray's Python proxy routes requests (`server.data_path: proxy`). It sees headers only, so a session is named
by ``x-session-id``. With HAProxy the same is configured in `engine.patches.haproxy`.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from hybridserve.engine.patches.haproxy import LOAD_PERCENT


class SessionRouter(ConsistentHashRouter):  # type: ignore[misc]
    """Ray's consistent-hash router, which skips a replica with more than its share of the requests.

    Ray's own tries the next replica only when one rejects a request, and a replica of ours rejects none.
    """

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        """Ranked candidates: on the ring, first those below the bound."""
        ranked = await super().choose_replicas(candidate_replicas, pending_request)
        loads = {replica.replica_id: self.replica_queue_len_cache.get(replica.replica_id) or 0
                 for replica in candidate_replicas}  # fmt: skip
        return within_bound(ranked, loads)


def within_bound(ranked: list[list[Any]], loads: dict[Any, int]) -> list[list[Any]]:
    """The ranks whose replica may take one more request, then the others.

    Args:
        ranked: one replica each, in the order of preference.
        loads: requests of every replica.
    """
    bound = ceil((sum(loads.values()) + 1) / max(1, len(loads)) * LOAD_PERCENT / 100)
    full = [rank for rank in ranked if any(loads.get(replica.replica_id, 0) >= bound for replica in rank)]
    return [rank for rank in ranked if rank not in full] + full
