"""Counts which prompt tokens of finished requests were reused, and why the other reusable ones were not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import IO

from hybridserve.observability.metrics import EngineMetrics, labeled
from hybridserve.planning.cache.reuse import CAUSES, CacheGrid, ReuseAccount, chain
from hybridserve.planning.cache.reuse_trace import TracedRequest

TRACE_BYTES = 64 << 20
MAX_WAITING = 1024
"""Finished requests that wait for the thread at most; further ones are not counted, and their tokens not kept."""


class PrefixReuseCollector:
    """Accounts for every finished request, in one thread beside the event loop: it takes 50 us per 1,000 tokens.

    Args:
        free_blocks: blocks that no sequence uses now.
        elsewhere: from a chain and a number of its hashes, tokens of these that any replica has seen; None with one
            replica.
        trace: receives one line per request, with hashes and no tokens; for `hybridserve cache explain`.
    """

    def __init__(
        self,
        metrics: EngineMetrics,
        grid: CacheGrid,
        free_blocks: Callable[[], int],
        elsewhere: Callable[[Sequence[int], int], int] | None = None,
        trace: IO[bytes] | None = None,
    ) -> None:
        self._metrics = metrics
        self._account = ReuseAccount(grid)
        self._free_blocks = free_blocks
        self._elsewhere = elsewhere
        self._trace = trace
        self._worker = ThreadPoolExecutor(1, "prefix-reuse")
        self._places = BoundedSemaphore(MAX_WAITING)
        for cause in CAUSES:
            metrics.prefix_lost_tokens.labels(cause)

    def finished(self, prompt: Sequence[int], output: Sequence[int], hit: int, scope: str) -> None:
        """Account for one request.

        Args:
            prompt: its tokens, and those of the `output`.
            hit: prompt tokens that came from the cache.
            scope: only requests of one scope share prefixes.
        """
        if self._places.acquire(blocking=False):
            self._worker.submit(self.record, prompt, output, hit, scope).add_done_callback(
                lambda _: self._places.release()
            )

    def record(self, prompt: Sequence[int], output: Sequence[int], hit: int, scope: str = "") -> None:
        """The same, in the calling thread."""
        step = self._account.grid.step
        sequence = chain([*prompt, *output], step, scope)
        tokens, total = len(prompt), len(prompt) + len(output)
        elsewhere = self._elsewhere(sequence, (tokens - 1) // step) if self._elsewhere is not None else 0
        reuse = self._account.record(
            sequence[: tokens // step], sequence, tokens, total, hit, self._free_blocks(), elsewhere
        )
        self._metrics.prefix_reusable_tokens.inc(reuse.reusable)
        self._metrics.prefix_hit_tokens.inc(hit)
        for cause, lost in reuse.lost:
            labeled(self._metrics.prefix_lost_tokens, cause).inc(lost)
        if self._trace is not None and self._trace.tell() < TRACE_BYTES:
            self._trace.write(f"{TracedRequest(step, sequence, tokens, total, hit).to_json()}\n".encode())
