"""The numeric check of a replica's own engine, before the replica becomes ready."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx

from hybridserve.errors import HybridServeError
from hybridserve.files import write_text
from hybridserve.gateway.types import App, Receive, Scope, Send
from hybridserve.observability.metrics import GatewayMetrics
from hybridserve.settings.verify import VerifySection
from hybridserve.verify.client import EngineClient
from hybridserve.verify.reference import Reference, read_reference
from hybridserve.verify.run import Load, check
from hybridserve.verify.statistics import Result, overall

log = logging.getLogger("hybridserve.verify")

DIRECT = "hybridserve.direct"
"""Scope key with the gateway's own token: the request goes to the engine's application, past the gateway."""


class VerifyMonitor:
    """Runs the check once, and keeps its verdict.

    Args:
        model: the name that the service serves.
        given: `dtype` and `block_size` of the planned engine.
        token: lets the check's requests pass the gateway.

    Attributes:
        fault: why the replica must not serve; None after a check that passed.
        finished: is set when the check has ended.

    Raises:
        ConfigError: the reference cannot be read.
    """

    def __init__(
        self, section: VerifySection, model: str, given: dict[str, Any], metrics: GatewayMetrics, token: object
    ) -> None:
        self.fault: str | None = "the engine is being checked"
        self.finished = asyncio.Event()
        self._section = section
        self._reference: Reference | None = read_reference(section.reference_file) if section.reference_file else None
        self._model = model
        self._given = given
        self._metrics = metrics
        self._token = token

    @property
    def verdict(self) -> dict[str, Any]:
        """For /ready: whether the check passed, and the digest of the reference (empty: the engine against itself)."""
        return {"passed": self.fault is None, "reference": self._reference.sha256 if self._reference else ""}

    async def run(self, app: App) -> None:
        """Check the engine behind `app`. Whatever goes wrong counts as a failed check."""
        try:
            results = await self._check(app)
        except HybridServeError as error:
            self._end(f"{error.where}: {error.what}", [])
        except Exception as error:
            log.exception("verify_error")
            self._end(f"the check ended with {type(error).__name__}: {error}", [])
        else:
            wrong = [result for result in results if result.verdict == "FAIL"]
            named = ", ".join(f"{one.condition} (level {one.level:.3g} of {one.level_limit:.3g})" for one in wrong)
            passed = overall(results) == "PASS"
            self._end(None if passed else f"log-probabilities are wrong: {named or 'nothing was checked'}", results)

    async def _check(self, app: App) -> list[Result]:
        async def direct(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, DIRECT: self._token}, receive, send)

        section = self._section
        transport = httpx.ASGITransport(app=direct)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as http:
            engine, load = EngineClient(http, self._model), Load(section.concurrency, section.pressure)
            made, results = await check(engine, self._reference, (), self._given, load, section.false_alarm_rate)
        if section.record_file and self._reference is None and overall(results) == "PASS":
            write_text(section.record_file, made.to_json())
        return results

    def _end(self, fault: str | None, results: list[Result]) -> None:
        self.fault = fault
        self._metrics.verify_passed.labels("reference" if self._reference else "itself").set(float(fault is None))
        for result in results:
            self._metrics.verify_deviation.labels(result.condition, "level").set(result.level)
            self._metrics.verify_deviation.labels(result.condition, "limit").set(result.level_limit)
        if fault is None:
            log.info("verify_passed")
        else:
            log.error("verify_failed", extra={"why": fault})
        self.finished.set()
