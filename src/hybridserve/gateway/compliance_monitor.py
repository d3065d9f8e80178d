"""Repeats the compliance checks in a running service: what lapses is reported, and ends the service after a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from hybridserve.compliance.lapses import Lapse, lapses, overdue
from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.guards import ResilientGuard
from hybridserve.observability.metrics import GatewayMetrics

log = logging.getLogger("hybridserve.compliance")

# The first check waits until the service has started.
_FIRST_S = 30.0
_GUARD_RULE = "guard.identity"


class ComplianceMonitor:
    """Evaluates the rules again, with the files as they are now, and asks the guard's endpoint what it serves.

    A finding that blocks closes the gateway after `license.grace_days`, counted from the day on which a waiver or a
    date ended, or on which this process saw the change. What already blocks at the first check, although the start was
    allowed, is a difference between machines (files that only the head node has) and never closes.

    Args:
        publish: called with the new body of ``GET /compliance``.
    """

    def __init__(
        self,
        spec: DeploymentSpec,
        guard: ResilientGuard | None,
        metrics: GatewayMetrics,
        publish: Callable[[str, Any], None],
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self.lapsed: list[Lapse] = []
        self.closed: list[Lapse] = []
        self._spec = spec
        self._guard = guard
        self._metrics = metrics
        self._publish = publish
        self._today = today
        self._started = date.fromisoformat(spec.documents["/compliance"]["judged"])
        self._section = spec.settings.license
        self._first: set[tuple[str, str]] | None = None
        self._seen: dict[tuple[str, str], date] = {}
        self._identity: dict[str, Any] | None = None

    async def run(self) -> None:
        """Repeat the checks until cancelled."""
        await asyncio.sleep(min(_FIRST_S, self._section.recheck_interval_s))
        while True:
            await self.check()
            await asyncio.sleep(self._section.recheck_interval_s)

    async def check(self) -> None:
        """Check once, and update the metrics and ``GET /compliance``."""
        today = self._today()
        try:
            found = await asyncio.to_thread(self._evaluate, today)
        except Exception as error:  # an unreadable file, or one that is gone since
            log.error("compliance_check_failed", extra={"error": type(error).__name__, "what": str(error)[:500]})
            found = [Lapse("compliance.check", "", f"the checks cannot be repeated: {error}")]
        found += await self._changed_guard()
        if self._first is None:
            self._first = {(lapse.rule, lapse.subject) for lapse in found if lapse.since is None}
        self._seen = {
            (lapse.rule, lapse.subject): self._seen.get((lapse.rule, lapse.subject), today) for lapse in found
        }
        before = {(lapse.rule, lapse.subject) for lapse in self.lapsed}
        self.lapsed = [
            lapse if lapse.since is not None or (lapse.rule, lapse.subject) in self._first
            else replace(lapse, since=self._seen[lapse.rule, lapse.subject])
            for lapse in found
        ]  # fmt: skip
        self.closed = overdue(self.lapsed, today, self._section.grace_days)
        self._metrics.compliance_lapses.set(len(self.lapsed))
        self._metrics.compliance_closed.set(float(bool(self.closed)))
        for lapse in self.lapsed:
            if (lapse.rule, lapse.subject) not in before:
                since = str(lapse.since or "the start")
                log.warning("compliance_lapsed", extra={"rule": lapse.rule, "subject": lapse.subject, "since": since})

    def _evaluate(self, today: date) -> list[Lapse]:
        # Imported here: the planner takes half a second, which the start of a replica does not wait for.
        from hybridserve.compliance import compliance_document
        from hybridserve.deployment.compliance_view import build_view

        profile = self._spec.settings.server.profile
        view = build_view(self._spec.settings, profile)
        findings, lapsed = lapses(view, self._started, today, profile)
        self._publish("/compliance", compliance_document(findings, profile, today, view.evidence))
        return lapsed

    async def _changed_guard(self) -> list[Lapse]:
        if self._guard is None:
            return []
        identity = await self._guard.identity()
        if identity is None:  # not reachable, which readiness reports, or a guard without an identity
            return []
        if self._identity is None:
            self._identity = identity
        changed = [name for name, value in identity.items() if self._identity.get(name) != value]
        if not changed:
            return []
        what = ", ".join(f"{name} was {self._identity.get(name)!r} and is {identity[name]!r}" for name in changed)
        return [Lapse(_GUARD_RULE, "", f"the guard's endpoint serves another model: {what}")]
