"""Counts finished requests against both latency targets at once, which independent histograms cannot tell."""

from __future__ import annotations

from typing import Any

_LEFT = "abort"


class SLOCollector:
    """A `StatLogger` for vLLM, without importing it: appended to `logger_manager.stat_loggers`.

    Fields read (vLLM 0.29): IterationStats.finished_requests with finish_reason, num_prompt_tokens, queued_time,
    prefill_time, mean_time_per_output_token. Times in seconds; the first token's is counted from the engine's door.

    Attributes:
        requests: finished requests by outcome.
        prompts: finished prompts by whether they are longer than `cacheable_min`.
    """

    def __init__(self, ttft_s: float, inter_token_s: float, cacheable_min: float) -> None:
        self._ttft_s = ttft_s
        self._inter_token_s = inter_token_s
        self._cacheable_min = cacheable_min
        # Every word from the start: a rate over a series that begins with its first event misses that event.
        self.requests = dict.fromkeys(("good", "slow_first_token", "slow_tokens", "slow_both", "failed"), 0)
        self.prompts = dict.fromkeys(("yes", "no"), 0)

    def record(
        self,
        scheduler_stats: Any | None,
        iteration_stats: Any | None,
        mm_cache_stats: Any | None = None,
        engine_idx: int = 0,
    ) -> None:
        """One engine step."""
        for request in iteration_stats.finished_requests if iteration_stats is not None else ():
            self.prompts["yes" if request.num_prompt_tokens > self._cacheable_min else "no"] += 1
            reason = str(request.finish_reason)
            if reason == _LEFT:
                continue
            self.requests[self._outcome(request, reason)] += 1

    def _outcome(self, request: Any, reason: str) -> str:
        if reason == "error":
            return "failed"
        late = request.queued_time + request.prefill_time > self._ttft_s
        slow = request.mean_time_per_output_token > self._inter_token_s
        if late and slow:
            return "slow_both"
        return "slow_first_token" if late else "slow_tokens" if slow else "good"

    def log_engine_initialized(self) -> None:
        """Part of vLLM's interface; there is nothing to say."""

    def log(self) -> None:
        """Part of vLLM's interface; there is nothing to say."""

    def record_sleep_state(self, is_awake: int = 0, level: int = 0) -> None:
        """Part of vLLM's interface; a sleeping engine has no requests."""
