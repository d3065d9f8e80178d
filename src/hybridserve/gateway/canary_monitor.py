"""A running service proves its guard again and again: one canary to block, one to pass, through its own door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from hybridserve.compliance.canary_prompts import Canary, round_canaries
from hybridserve.compliance.evidence import CanaryObservation, CanaryState, canary_round, judge
from hybridserve.gateway.internal_request import request_app
from hybridserve.gateway.types import App, Scope
from hybridserve.guards.canaries.client import ROUTE, read_answer
from hybridserve.observability.metrics import GatewayMetrics
from hybridserve.settings.guard import GuardSection

log = logging.getLogger("hybridserve.guard")

# A service that has not shown its guard yet is waited for: it asks again sooner than one that runs.
FIRST_EVERY_S = 1.0
# Marks a request as the service's own. Only code in this process can put an object into a scope.
INSIDER = "hybridserve.insider"


class GuardCanaryMonitor:
    """The repeated pair, its state, and what it says about readiness.

    Args:
        model: name that the service serves.
        insider: object that the door knows the service's own requests by.
    """

    def __init__(self, section: GuardSection, model: str, metrics: GatewayMetrics, insider: object) -> None:
        block, allow = round_canaries(section.canary_block, section.canary_pass)
        # With the check of prompts off nothing holds a harmful question back; its answer may well be harmless.
        self.pair: Sequence[Canary] = (allow,) if section.input == "off" else (block, allow)
        self.state = CanaryState()
        self._section = section
        self._model = model
        self._metrics = metrics
        self._insider = insider

    @property
    def fault(self) -> str | None:
        """Why nothing may be served now; None while the guard is seen to work."""
        return None if self.state.ready else self.state.why

    async def run(self, app: App) -> None:
        """Play rounds until cancelled."""
        while True:
            await self.play(app)
            await asyncio.sleep(self._section.canary_interval_s if self.state.proven else FIRST_EVERY_S)

    async def play(self, app: App) -> None:
        """One round."""
        seen = [(canary, await self._observe(app, canary)) for canary in self.pair]
        before, self.state = self.state, canary_round(self.state, seen, self._section.canary_failures)
        for canary, observation in seen:
            passed = judge(canary, observation).status == "PASS"
            self._metrics.guard_canary_ok.labels(canary.expect).set(float(passed))
            self._metrics.guard_canary_latency.labels(canary.expect).observe(observation.latency_s)
        if not self.state.ok:
            log.warning("event=canary_failed failures=%d why=%r", self.state.failures, self.state.why)
        elif not before.ok:
            log.info("event=canary_ok")

    async def _observe(self, app: App, canary: Canary) -> CanaryObservation:
        began = perf_counter()
        try:
            answer = await request_app(
                app, own_scope(self._insider), "POST", ROUTE, {**canary.body, "model": self._model}
            )
            said: dict[str, Any] = read_answer(answer.status, answer.json())
        except Exception as error:  # Whatever breaks: a guard that nobody can see working does not work.
            return CanaryObservation(
                canary=canary.id, status=0, fault=type(error).__name__, latency_s=perf_counter() - began
            )
        return CanaryObservation(canary=canary.id, latency_s=perf_counter() - began, **said)


def own_scope(insider: object) -> Scope:
    """Pattern for a request of the service to itself."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 0),
        "state": {},
        INSIDER: insider,
    }
