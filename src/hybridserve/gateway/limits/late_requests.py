"""Refuses requests that this replica's engine would answer too late (`scaling.refuse_late`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hybridserve.autoscaling.admission import Admission
from hybridserve.autoscaling.replica_metrics import ReplicaMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.gateway.errors import APIError


class LateRequests:
    """Checks a request before it takes a slot.

    Args:
        read: the engine's metrics as they are now.
        refused: called for each refusal, so that the scaling policy counts it as demand.
    """

    def __init__(self, spec: ScalingSpec, read: Callable[[], ReplicaMetrics], refused: Callable[[], None]) -> None:
        self._admission = Admission(spec)
        self._read = read
        self._refused = refused

    def check(self, prompt: int, present: int) -> None:
        """Admit a request or refuse it.

        Args:
            prompt: its prompt tokens.
            present: requests in this process; the engine reports those of the last second late.

        Raises:
            APIError: 429, its first token is expected after its target.
        """
        metrics = self._read()
        metrics = replace(metrics, waiting=max(metrics.waiting, present - metrics.running))
        wait_s = self._admission.retry_after_s(metrics, prompt)
        if wait_s is None:
            return
        self._refused()
        message = "Too many requests are waiting: the answer would begin too late."
        raise APIError(429, "rate_limit_exceeded", message, reason="late", retry_after_s=wait_s)
