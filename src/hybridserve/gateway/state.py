"""Gateway state shared by all requests of a process, composed of one object for each concern."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from hybridserve import __version__
from hybridserve.catalog.models import ServingFacts, resolve_model
from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.errors import CatalogError
from hybridserve.gateway.auth.authenticator import Authenticator
from hybridserve.gateway.auth.routes import Routes
from hybridserve.gateway.canary_monitor import GuardCanaryMonitor
from hybridserve.gateway.compliance_monitor import ComplianceMonitor
from hybridserve.gateway.guard_checker import GuardChecker
from hybridserve.gateway.idempotency import IdempotencyCache
from hybridserve.gateway.internal_request import internal_scope, request_app
from hybridserve.gateway.lifecycle import Lifecycle
from hybridserve.gateway.limits.late_requests import LateRequests
from hybridserve.gateway.limits.ledger import Ledger, shared_ledger
from hybridserve.gateway.limits.rate_limit import RequestLimits
from hybridserve.gateway.model_tokens import served_special_tokens
from hybridserve.gateway.readiness import Readiness
from hybridserve.gateway.reasoning.budget import ThinkingBudgetProbe
from hybridserve.gateway.reasoning.controls import resolve_switch
from hybridserve.gateway.tracing import RequestTracer
from hybridserve.gateway.types import App
from hybridserve.gateway.verify_monitor import VerifyMonitor
from hybridserve.guards import ResilientGuard, build_guard
from hybridserve.observability.metrics import GatewayMetrics
from hybridserve.settings import Settings

log = logging.getLogger("hybridserve.access")


class GatewayState:
    """Composes what the steps of a request use: authenticator, limits, guard, lifecycle, readiness.

    Args:
        guard: replaces the guard that the settings describe.
        metrics: metrics of this process; None counts without exporting.
        tracer: replaces the process's own tracing.
        ledger: where replicas share the limits of keys; None for the one of `access.limits_url`, if any.
        sends_request_id: put ``x-request-id`` on responses. Ray Serve does that itself, with the same ID.

    Raises:
        ConfigError: the key file or a file of the guard cannot be used.
    """

    def __init__(
        self,
        spec: DeploymentSpec,
        *,
        guard: ResilientGuard | None = None,
        metrics: GatewayMetrics | None = None,
        tracer: RequestTracer | None = None,
        ledger: Ledger | None = None,
        sends_request_id: bool = True,
    ) -> None:
        self._spec = spec
        settings = spec.settings
        model = served_name(settings)
        self.settings = _with_reasoning_switch(settings)
        self.special_tokens = served_special_tokens(settings)
        self.metrics = metrics or GatewayMetrics()
        self.tracer = tracer or RequestTracer()
        guard = guard or build_guard(settings.guard, model)
        self.guard = GuardChecker(guard, self.metrics) if guard is not None else None
        self.authenticator = Authenticator(settings)
        self.routes = Routes(settings.access.open_routes, guarded=guard is not None)
        shared = ledger or shared_ledger(settings.access, model)
        self.limits = RequestLimits(
            settings.access,
            ledger=shared,
            replicas=settings.scaling.max_replicas,
            lost=self.metrics.limits_ledger_lost,
        )
        self._ledger = shared
        self.idempotency = IdempotencyCache(settings.access.idempotency_s)
        self.budgets = ThinkingBudgetProbe(self.settings.reasoning)
        self.lifecycle = Lifecycle(self.metrics.draining)
        self.readiness = Readiness(self.lifecycle, guard, self.authenticator.keys_problem)
        self.metrics.keys_file_broken.set_function(lambda: float(self.authenticator.keys_problem() is not None))
        self.token_counts: Callable[[str], tuple[int, int] | None] = lambda _: None
        """Prompt and output tokens of a finished request by its ID; set by the engine of this process."""
        self.late_requests: LateRequests | None = None
        """Set by the engine of this process, with `scaling.refuse_late`."""
        self.headers = [(name.lower().encode(), value.encode()) for name, value in spec.headers.items()]
        self.sends_request_id = sends_request_id
        self._tasks: list[asyncio.Task[None]] = []
        about: dict[str, Any] = {"service": "hybridserve", "version": __version__, "model": model, "guard": None}
        if guard is not None:
            about["guard"] = {"name": guard.name, "input": settings.guard.input, "output": settings.guard.output}
        about["attribution"] = spec.documents.get("/licenses", {}).get("lines", [])
        self.documents: dict[str, Any] = {"/about": about, **spec.documents}

    def apply(self, settings: Settings) -> None:
        """Use these limits and reasoning defaults from the next request on (`settings.live`)."""
        self.settings = _with_reasoning_switch(settings)
        self.limits.apply(settings.access)

    def publish(self, route: str, document: Any) -> None:
        """Serve this document as JSON from now on."""
        self.documents[route] = document

    def start(self, app: App) -> None:
        """Start the background tasks in the running event loop; a second call does nothing.

        The guard's self-test: until its first success, and after repeated failures, requests are rejected. The probe
        for thinking budgets: only where the engine is known to have a reasoning parser.

        Args:
            app: the application with the gateway in front of it.
        """
        if self._tasks:
            return
        loop, settings, token = asyncio.get_running_loop(), self.settings, self.authenticator.internal_token
        if self.guard is not None:
            monitor = GuardCanaryMonitor(settings.guard, served_name(settings), self.metrics, token)
            self.readiness.monitor = monitor
            self._tasks.append(loop.create_task(monitor.run(app)))
        if settings.verify.at_start:
            plan, args = self._spec.plan, self._spec.engine_args
            given = {"dtype": args.get("dtype"), "block_size": plan.cache.get("block_size") if plan else None}
            verify = VerifyMonitor(settings.verify, served_name(settings), given, self.metrics, token)
            self.readiness.verify = verify
            self._tasks.append(loop.create_task(verify.run(app)))
        if "/compliance" in self._spec.documents and settings.server.profile != "demo":  # demo refuses nothing
            guard = self.guard.guard if self.guard is not None else None
            compliance = ComplianceMonitor(self._spec, guard, self.metrics, self.publish)
            self.readiness.compliance = compliance
            self._tasks.append(loop.create_task(compliance.run()))
        if self._ledger is not None:
            limited = self.limits.counts_all() or self.authenticator.any_limits()
            self._tasks.append(loop.create_task(self.limits.run(always=limited)))
        facts = _serving_facts(settings)
        has_parser = bool(settings.engine.reasoning_parser or (facts and facts.reasoning_parser))
        if has_parser and self.budgets.enforced is None:
            self._tasks.append(loop.create_task(self._probe_budgets(app)))

    async def close(self) -> None:
        """Cancel the background tasks and close connections."""
        for task in self._tasks:
            task.cancel()
        if self.guard is not None:
            await self.guard.guard.close()
        if self._ledger is not None:
            await self._ledger.close()

    async def _probe_budgets(self, app: App) -> None:
        """Send a first request with a thinking budget, which makes the gateway probe the engine."""
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": served_name(self.settings), "messages": messages, "max_tokens": 1, "reasoning": {"budget": 1}}
        try:
            scope = internal_scope(self.authenticator.internal_token)
            await request_app(app, scope, "POST", "/v1/chat/completions", body)
        except Exception as error:  # the first client request with a budget repeats the probe
            log.warning("budget_probe_failed", extra={"error": type(error).__name__})


def served_name(settings: Settings) -> str:
    """The name that clients send as `model`."""
    return settings.model.served_name or settings.model.id


def _with_reasoning_switch(settings: Settings) -> Settings:
    reasoning = resolve_switch(settings.reasoning, _serving_facts(settings))
    return settings.model_copy(update={"reasoning": reasoning})


def _serving_facts(settings: Settings) -> ServingFacts | None:
    try:
        card = resolve_model(settings.model.id).card
    except CatalogError:  # a model that only the engine knows
        return None
    return card.serving if card is not None else None
