"""Statistics of one engine, collected at every step, as the metrics that the scaling policy needs.

A `StatLogger` for vLLM, without importing it: appended to `logger_manager.stat_loggers` of a started `AsyncLLM`, it is
called after every step with the engine's own statistics. Fields read (vLLM 0.29): SchedulerStats.num_running_reqs,
num_waiting_reqs, num_skipped_waiting_reqs, kv_cache_usage; IterationStats.num_generation_tokens, num_preempted_reqs,
finished_requests with request_id, num_prompt_tokens, num_generation_tokens, queued_time, prefill_time, inference_time
and mean_time_per_output_token. A contract test checks them against the installed engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hybridserve.autoscaling.capacity import ReplicaCapacity
from hybridserve.autoscaling.replica_metrics import PREFIX, ReplicaMetrics
from hybridserve.observability.collectors.slo import StatsLogger
from hybridserve.settings.slo import NO_SLO, LatencySLO

# Token counts of finished requests that no log line has asked for yet; the oldest are dropped.
_KEPT_SIZES = 4096


class EngineStatsLogger(StatsLogger):
    """Counts requests and tokens, and returns `ReplicaMetrics` at any time.

    Args:
        capacity: of this replica; it separates state blocks from attention blocks in the engine's one usage number.
        unfinished: number of requests in the engine's front end. An idle engine makes no steps, so this number tells an
            idle engine from a dead one, and shows aborted requests.
        slo: targets of a request; those that miss one are counted.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        capacity: ReplicaCapacity,
        unfinished: Callable[[], int],
        slo: LatencySLO = NO_SLO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self._slo = slo
        self._unfinished = unfinished
        self._clock = clock
        self._at = clock()
        self.steps = 0
        self._running = self._waiting = self._deferred = 0
        self._usage = 0.0
        self._arrived = self._finished = self._generated = self._preemptions = 0
        self._prompt_tokens = self._late = 0
        self._prompt_squares = self._slot_seconds = 0.0
        self._sizes: dict[str, tuple[int, int]] = {}

    def record(
        self,
        scheduler_stats: Any | None,
        iteration_stats: Any | None,
        mm_cache_stats: Any | None = None,
        engine_idx: int = 0,
    ) -> None:
        """One engine step."""
        self.steps += 1
        finished = 0
        if iteration_stats is not None:
            self._generated += iteration_stats.num_generation_tokens
            self._preemptions += iteration_stats.num_preempted_reqs
            for request in iteration_stats.finished_requests:
                finished += 1
                self._prompt_tokens += request.num_prompt_tokens
                self._prompt_squares += float(request.num_prompt_tokens) ** 2
                self._slot_seconds += request.inference_time
                self._late += self._slo.late(
                    request.queued_time,
                    request.prefill_time,
                    request.mean_time_per_output_token,
                    request.num_prompt_tokens,
                )
                self._add_size(request)
            self._finished += finished
        if scheduler_stats is None:
            self._arrived += finished
            return
        before = self._running + self._waiting + self._deferred
        self._running = scheduler_stats.num_running_reqs
        self._waiting = scheduler_stats.num_waiting_reqs
        self._deferred = scheduler_stats.num_skipped_waiting_reqs
        self._usage = scheduler_stats.kv_cache_usage
        # New requests, and those that arrived and finished since. An abort only reduces the sum, so it is cut at zero.
        self._arrived += max(0, self._running + self._waiting + self._deferred - before + finished)
        self._at = self._clock()

    def count_refused(self) -> None:
        """Count a request that the gateway refused because it would be late: demand that the replicas cannot answer."""
        self._arrived += 1
        self._late += 1

    def _add_size(self, request: Any) -> None:
        """Keep the tokens of a request under the ``x-request-id`` of its client.

        vLLM's own IDs: ``chatcmpl-ID``, and ``cmpl-ID-0`` for the first prompt of a completion.
        """
        kind, _, ident = str(request.request_id).partition("-")
        if kind == "cmpl":
            ident = ident.rpartition("-")[0]
        prompt, output = self._sizes.pop(ident, (0, 0))
        self._sizes[ident] = (prompt + request.num_prompt_tokens, output + request.num_generation_tokens)
        if len(self._sizes) > _KEPT_SIZES:
            del self._sizes[next(iter(self._sizes))]

    def take_size(self, ident: str) -> tuple[int, int] | None:
        """Prompt and output tokens of a finished request with this ``x-request-id``, once; None if not known."""
        return self._sizes.pop(ident, None)

    @property
    def busy(self) -> bool:
        """Whether the engine has requests."""
        return self._unfinished() > 0

    def metrics(self, replica: str = "") -> ReplicaMetrics:
        """Metrics of the engine as it is now."""
        idle = self._unfinished() == 0
        running, waiting, deferred = (0, 0, 0) if idle else (self._running, self._waiting, self._deferred)
        mean_prompt = self._prompt_tokens / self._finished if self._finished else 0.0
        return ReplicaMetrics(
            replica,
            age_s=0.0 if idle else self._clock() - self._at,
            running=running,
            waiting=waiting,
            deferred=deferred,
            blocks_used=0 if idle else round(self._usage * self.capacity.usable_blocks),
            state_blocks_used=running * self.capacity.state_blocks,
            # The engine does not report waiting prompt tokens: waiting requests times the mean prompt so far.
            prefill_backlog=round(waiting * mean_prompt),
            preemptions=self._preemptions,
            arrived=self._arrived,
            finished=self._finished,
            prompt_tokens=self._prompt_tokens,
            prompt_squares=self._prompt_squares,
            generated=self._generated,
            slot_seconds=self._slot_seconds,
            late=self._late,
        )

    def numbers(self) -> dict[str, int | float]:
        """The same numbers by metric name: what a replica's `record_autoscaling_stats` returns."""
        return {PREFIX + name: value for name, value in self.metrics().numbers().items()}
