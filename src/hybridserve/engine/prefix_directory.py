"""The prefixes that any replica has seen, so that a replica can tell what it computes again because another has it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from hybridserve.planning.cache.reuse import CacheGrid, SeenPrefixes

logger = logging.getLogger(__name__)

NAME = "hybridserve-prefix-directory"
TIMEOUT_S = 5.0
PAUSE_S = 60.0
"""After a failure the directory is not asked for so long: each try would block the accounting for `TIMEOUT_S`."""

Exchange = Callable[[Sequence[int], int], int]


class PrefixDirectory:
    """An ideal cache over all replicas. Memory is bounded like that of one replica."""

    def __init__(self, tokens: int, step: int) -> None:
        self._seen = SeenPrefixes(tokens, step)

    def exchange(self, chain: Sequence[int], count: int) -> int:
        """Tokens of the first `count` hashes that some replica has seen before; then remember the whole chain."""
        found = self._seen.longest(chain[:count])
        self._seen.add(chain)
        return found


def shared_directory(grid: CacheGrid, replicas: int, model: str) -> Exchange:
    """`PrefixDirectory.exchange` of one Ray actor for all replicas of a model; 0 while it does not answer.

    Args:
        replicas: the most that run at once.
    """
    import ray

    name = f"{NAME}-{model}-{grid.step}"
    options: dict[str, Any] = {"name": name, "namespace": "hybridserve", "get_if_exists": True}
    actor = ray.remote(num_cpus=0, lifetime="detached", max_restarts=-1, **options)(PrefixDirectory)
    handle = actor.remote(grid.tokens * replicas, grid.step)

    resume_at = 0.0

    def exchange(chain: Sequence[int], count: int) -> int:
        nonlocal resume_at
        if time.monotonic() < resume_at:
            return 0
        try:
            return int(ray.get(handle.exchange.remote(list(chain), count), timeout=TIMEOUT_S))
        except Exception as error:  # a count of lost tokens must not stop anything
            resume_at = time.monotonic() + PAUSE_S
            logger.warning("prefix_directory_failed", extra={"error": type(error).__name__})
            return 0

    return exchange
