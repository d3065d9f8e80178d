"""Readiness: whether this process should get traffic, and whether it accepts new generations."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from hybridserve.errors import ConfigError
from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.canary_monitor import GuardCanaryMonitor
from hybridserve.gateway.compliance_monitor import ComplianceMonitor
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.lifecycle import Lifecycle
from hybridserve.gateway.verify_monitor import VerifyMonitor
from hybridserve.guards import ResilientGuard

# How long the result of a guard probe is reused.
_PROBE_INTERVAL_S = 5.0


class Readiness:
    """Combines drain, the guard's state and its self-test.

    Args:
        keys_problem: what is wrong with the key file now.

    Attributes:
        monitor: the guard's self-test, once it has been started.
        compliance: the repeated compliance checks, once they have been started.
        verify: the numeric check of the engine, once it has been started.
    """

    def __init__(
        self, lifecycle: Lifecycle, guard: ResilientGuard | None, keys_problem: Callable[[], ConfigError | None]
    ) -> None:
        self.monitor: GuardCanaryMonitor | None = None
        self.compliance: ComplianceMonitor | None = None
        self.verify: VerifyMonitor | None = None
        self._keys_problem = keys_problem
        self._lifecycle = lifecycle
        self._guard = guard
        self._probed_at = -_PROBE_INTERVAL_S
        self._probe_fault: str | None = None

    def require_accepting(self, key: Key) -> None:
        """Return if new generations of this key are accepted.

        Raises:
            APIError: 503, the server drains, its engine has not passed the numeric check, its compliance checks have
                lapsed, or the guard's self-test fails.
        """
        if key.internal:
            return
        if self._lifecycle.draining:
            raise APIError(503, "draining", "This server is shutting down; send the request again.", retry_after_s=1.0)
        if self.verify is not None and self.verify.fault is not None:
            message = "The engine of this server has not passed its numeric check."
            raise APIError(503, "engine_unverified", message, retry_after_s=5.0)
        if self.compliance is not None and self.compliance.closed:
            message = "This service is closed: its compliance checks have failed for longer than the grace period."
            raise APIError(503, "compliance_closed", message, retry_after_s=3600.0)
        if self._self_test_fault() is not None:
            message = "The safety guard failed its self-test; requests are rejected until it passes."
            raise APIError(503, "guard_unavailable", message, reason="guard_canary", retry_after_s=5.0)

    async def problems(self) -> list[str]:
        """Why this process should get no traffic; empty if it should."""
        problems = ["draining"] if self._lifecycle.draining else []
        if self.verify is not None and self.verify.fault is not None:
            problems.append(f"verify: {self.verify.fault}")
        if self._guard is not None and (fault := await self._guard_fault(self._guard)) is not None:
            problems.append(f"guard: {fault}")
        if self.compliance is not None:
            problems += [f"compliance: {lapse.rule}" for lapse in self.compliance.closed]
        return problems

    def warnings(self) -> list[str]:
        """What an operator must correct while this process still serves."""
        problem = self._keys_problem()
        # Everybody reads this: paths, names of keys and of people are in the log and in `GET /compliance`.
        warnings = [] if problem is None else ["access.keys_file: broken, see keys_reload_failed in the log"]
        if self.compliance is not None:
            warnings += [f"compliance: {lapse.rule}" for lapse in self.compliance.lapsed]
        return warnings

    def _self_test_fault(self) -> str | None:
        return None if self.monitor is None else self.monitor.fault

    async def _guard_fault(self, guard: ResilientGuard) -> str | None:
        if (fault := self._self_test_fault()) is not None:
            return f"canary: {fault}"
        if guard.breaker == "open":
            return "breaker open"
        now = monotonic()
        if now - self._probed_at >= _PROBE_INTERVAL_S:
            self._probed_at, self._probe_fault = now, await guard.probe()
        return self._probe_fault
