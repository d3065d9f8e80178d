"""Counts finished requests against both latency targets at once, which independent histograms cannot do."""

from __future__ import annotations

from typing import Any

from hybridserve.observability.metrics import EngineMetrics, labeled

_ABORTED = "abort"


class StatsLogger:
    """The unused part of vLLM's `StatLoggerBase`, without importing vLLM; a collector adds `record`."""

    def log_engine_initialized(self) -> None:
        """Part of vLLM's interface; not used."""

    def log(self) -> None:
        """Part of vLLM's interface; not used."""

    def record_sleep_state(self, is_awake: int = 0, level: int = 0) -> None:
        """Part of vLLM's interface; not used."""


class SLOCollector(StatsLogger):
    """Counts the outcome of every finished request.

    Fields read (vLLM 0.29): IterationStats.finished_requests with finish_reason, num_prompt_tokens, queued_time,
    prefill_time, mean_time_per_output_token. Times are in seconds; time to first token starts when the engine receives
    the request.

    Args:
        ttft_s: target for the time to first token.
        inter_token_s: target for the mean time per output token.
        cacheable_min: prompts longer than this many tokens can be a prefix cache hit.
    """

    def __init__(self, metrics: EngineMetrics, ttft_s: float, inter_token_s: float, cacheable_min: float) -> None:
        self._metrics = metrics
        self._ttft_s = ttft_s
        self._inter_token_s = inter_token_s
        self._cacheable_min = cacheable_min
        # Every series exists from the start: a rate over a series that begins with its first event misses that event.
        for outcome in ("good", "slow_first_token", "slow_tokens", "slow_both", "failed"):
            metrics.requests_slo.labels(outcome)
        for cacheable in ("yes", "no"):
            metrics.prompts.labels(cacheable)

    def record(
        self,
        scheduler_stats: Any | None,
        iteration_stats: Any | None,
        mm_cache_stats: Any | None = None,
        engine_idx: int = 0,
    ) -> None:
        """Count the requests that finished in one engine step."""
        for request in iteration_stats.finished_requests if iteration_stats is not None else ():
            cacheable = "yes" if request.num_prompt_tokens > self._cacheable_min else "no"
            labeled(self._metrics.prompts, cacheable).inc()
            reason = str(request.finish_reason)
            if reason != _ABORTED:
                labeled(self._metrics.requests_slo, self._outcome(request, reason)).inc()

    def _outcome(self, request: Any, reason: str) -> str:
        if reason == "error":
            return "failed"
        late = request.queued_time + request.prefill_time > self._ttft_s
        slow = request.mean_time_per_output_token > self._inter_token_s
        if late and slow:
            return "slow_both"
        return "slow_first_token" if late else "slow_tokens" if slow else "good"
