"""Periodic guard self-test: one prompt that must be blocked and one that must pass, sent through the gateway itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import perf_counter

from hybridserve.gateway.internal_request import internal_scope, request_app
from hybridserve.gateway.types import App
from hybridserve.guards.canaries.judge import CanaryObservation, CanaryState, judge, next_state
from hybridserve.guards.canaries.prompts import ROUTE, Canary, monitor_canaries
from hybridserve.observability.metrics import GatewayMetrics
from hybridserve.settings.guard import GuardSection

log = logging.getLogger("hybridserve.guard")

# Interval until the first success: a service that waits to become ready is tested more often than one that runs.
FIRST_INTERVAL_S = 1.0


class GuardCanaryMonitor:
    """Repeats the two canaries, keeps their state, and reports whether the service may serve.

    Args:
        model: the name that the service serves.
        internal_token: authenticates the service's own requests.
    """

    def __init__(self, section: GuardSection, model: str, metrics: GatewayMetrics, internal_token: object) -> None:
        block, allow = monitor_canaries(section.canary_block, section.canary_pass)
        # Without the check of prompts a harmful prompt is not blocked, and the answer to it may well be harmless.
        self.pair: Sequence[Canary] = (allow,) if section.input == "off" else (block, allow)
        self.state = CanaryState()
        self._section = section
        self._model = model
        self._metrics = metrics
        self._scope = internal_scope(internal_token)

    @property
    def fault(self) -> str | None:
        """Why the service must not serve; None while the guard works."""
        return None if self.state.ready else self.state.why

    async def run(self, app: App) -> None:
        """Repeat the self-test until cancelled."""
        while True:
            await self.run_once(app)
            await asyncio.sleep(self._section.canary_interval_s if self.state.proven else FIRST_INTERVAL_S)

    async def run_once(self, app: App) -> None:
        """Send both canaries and update the state, the metrics and the log."""
        seen = [(canary, await self._send(app, canary)) for canary in self.pair]
        before, self.state = self.state, next_state(self.state, seen, self._section.canary_failures)
        for canary, observation in seen:
            passed = judge(canary, observation).status == "PASS"
            self._metrics.guard_canary_ok.labels(canary.expect).set(float(passed))
            self._metrics.guard_canary_latency.labels(canary.expect).observe(observation.latency_s)
        if not self.state.ok:
            log.warning("canary_failed", extra={"failures": self.state.failures, "why": self.state.why})
        elif not before.ok:
            log.info("canary_ok")

    async def _send(self, app: App, canary: Canary) -> CanaryObservation:
        start = perf_counter()
        try:
            response = await request_app(app, self._scope, "POST", ROUTE, {**canary.body, "model": self._model})
            observation = CanaryObservation(canary=canary.id, status=response.status)
            observation.add(response.json(), "message")
        except Exception as error:  # Any failure means that the guard was not shown to work.
            observation = CanaryObservation(canary=canary.id, fault=type(error).__name__)
        observation.latency_s = perf_counter() - start
        return observation
