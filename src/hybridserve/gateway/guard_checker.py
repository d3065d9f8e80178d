"""Guard checks of the gateway: verdicts with metrics, and the API error for a verdict other than allow."""

from __future__ import annotations

from collections.abc import Sequence

from hybridserve.gateway.errors import APIError
from hybridserve.guards import GuardVerdict, Message, ResilientGuard, Stage
from hybridserve.observability.metrics import GatewayMetrics, labeled


class GuardChecker:
    """A guard whose checks are counted."""

    def __init__(self, guard: ResilientGuard, metrics: GatewayMetrics) -> None:
        self.guard = guard
        self._metrics = metrics

    async def check(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        """The guard's verdict on a conversation."""
        verdict = await self.guard.check(messages, stage)
        outcome = "unjudgeable" if verdict.unjudgeable else verdict.outcome
        labeled(self._metrics.guard_verdicts, self.guard.name, stage, outcome).inc()
        labeled(self._metrics.guard_check_duration, self.guard.name, stage).observe(verdict.seconds)
        return verdict

    def error(self, verdict: GuardVerdict, stage: Stage) -> APIError:
        """The error for a verdict other than allow. An outage of the guard differs from a blocked text."""
        if verdict.outcome == "block":
            subject = "request" if stage == "input" else "response"
            return APIError(
                400,
                "guard_blocked",
                f"The {subject} was blocked by the safety guard.",
                reason=f"guard_blocked_{stage}",
                extra={"guard": {"stage": stage, "categories": list(verdict.categories)}},
            )
        if verdict.unjudgeable:
            message = f"The safety guard could not judge this {stage}: it is too long for it, or made it fail."
            return APIError(400, "guard_unreadable", message, reason=f"guard_unjudgeable_{stage}")
        message = "The safety guard did not return a verdict; the request was rejected."
        return APIError(503, "guard_unavailable", message, retry_after_s=self.guard.retry_after_s)
