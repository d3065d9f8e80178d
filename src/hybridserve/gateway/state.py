"""What the door knows and decides by: keys, limits, guard, drain. One `GatewayState` a process; no HTTP in here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from hybridserve import __version__
from hybridserve.catalog.models import ServingFacts, resolve_model
from hybridserve.errors import CatalogError
from hybridserve.gateway.auth.api_keys import APIKeyStore, Key
from hybridserve.gateway.auth.routes import Route, Routes
from hybridserve.gateway.canary_monitor import INSIDER, GuardCanaryMonitor, own_scope
from hybridserve.gateway.config import GatewayConfig
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.internal_request import request_app
from hybridserve.gateway.limits.idempotency import IdempotencyCache
from hybridserve.gateway.limits.rate_limit import RequestLimits
from hybridserve.gateway.reasoning.budget import ThinkingBudgetProbe
from hybridserve.gateway.reasoning.controls import resolve_switch
from hybridserve.gateway.tracing import Spans
from hybridserve.gateway.types import App
from hybridserve.gateway.types import Scope as AsgiScope
from hybridserve.guards import GuardVerdict, Message, ResilientGuard, Stage, build_guard
from hybridserve.observability.metrics import GatewayMetrics, labeled
from hybridserve.settings import Settings
from hybridserve.settings.access import Scope

log = logging.getLogger("hybridserve.access")

# How long a guard's sign of life is believed.
_PROBE_EVERY_S = 5.0
_OURSELVES = Key("canary", frozenset({"inference"}), insider=True)


class GatewayState:
    """The state behind the middleware, for whoever serves to hold on to: drain, gate, readiness.

    Args:
        guard: instead of the one that the settings describe.
        metrics: counters of this process; None counts without exporting.
        spans: instead of the process's own tracing.
        names_requests: put ``x-request-id`` on answers. Ray Serve does that by itself, with the same id.

    Raises:
        ConfigError: the key file or a guard's file cannot be used.
    """

    def __init__(
        self,
        handover: GatewayConfig,
        *,
        guard: ResilientGuard | None = None,
        metrics: GatewayMetrics | None = None,
        spans: Spans | None = None,
        names_requests: bool = True,
    ) -> None:
        settings = handover.settings
        facts = _serving_facts(settings)
        reasoning = resolve_switch(settings.reasoning, facts)
        self.settings = settings = settings.model_copy(update={"reasoning": reasoning})
        self.metrics = metrics or GatewayMetrics()
        self.spans = spans or Spans()
        self.guard = guard or build_guard(settings.guard, served_name(settings))
        self.keys = APIKeyStore(Path(settings.access.keys_file)) if settings.access.keys_file else None
        self.limits = RequestLimits(settings.access)
        self.budgets = ThinkingBudgetProbe(settings.reasoning)
        self._counts_reasoning = bool(settings.engine.reasoning_parser or (facts and facts.reasoning_parser))
        self.routes = Routes(settings.access.open_routes, guarded=self.guard is not None)
        self.documents = _documents(handover, self.guard)
        self.headers = [(name.lower().encode(), value.encode()) for name, value in handover.headers.items()]
        self.names_requests = names_requests
        self.draining = False
        self._idle = asyncio.Event()
        self._active = 0
        self._probed: tuple[float, str | None] | None = None
        self._anonymous = _anonymous(settings)
        self._insider = object()
        self.engine_lost: Callable[[], bool] = lambda: False
        self.answers = IdempotencyCache(settings.access.idempotency_s)
        self._rounds: GuardCanaryMonitor | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- who may

    def admit(self, route: Route | None, secret: bytes | None, scope: AsgiScope) -> Key:
        """Who asks.

        Raises:
            APIError: 401 without a valid key, 403 where the key's scopes do not reach.
        """
        if scope.get(INSIDER) is self._insider:
            return _OURSELVES
        key = self._anonymous
        if secret is not None and self.keys is not None:
            found = self.keys.find(secret)
            if found is None:
                raise APIError(401, "invalid_api_key", "This API key is not known here, or has expired.")
            key = found
        if route is not None and (route.scope is None or route.scope in key.scopes):
            return key
        if key is self._anonymous and self.keys is not None:
            raise APIError(
                401, "missing_api_key", "Send an API key: Authorization: Bearer KEY.", reason="missing_api_key"
            )
        raise APIError(403, "not_allowed", "This route is not open to you.", reason="scope")

    def check_open(self, key: Key) -> None:
        """Raises APIError, 503, while new work is not taken from this key."""
        if key.insider:
            return
        if self.draining:
            message = "This server is shutting down; another one takes the request."
            raise APIError(503, "draining", message, retry_after_s=1.0)
        if self._rounds is not None and self._rounds.fault is not None:
            message = "The safety guard is not seen to work; nothing is served until it is."
            raise APIError(503, "guard_unavailable", message, reason="guard_canary", retry_after_s=5.0)

    # --- documents, drain, gate, readiness

    def apply(self, settings: Settings) -> None:
        """Use these limits and reasoning defaults from the next request on (`settings.live`)."""
        reasoning = resolve_switch(settings.reasoning, _serving_facts(settings))
        self.settings = settings.model_copy(update={"reasoning": reasoning})
        self.limits.apply(settings.access)

    def publish(self, route: str, document: Any) -> None:
        """Serve this as JSON from now on."""
        self.documents = {**self.documents, route: document}

    def drain(self, on: bool = True) -> None:
        """Take no new generations; those that run go on."""
        self.draining = on
        self.metrics.draining.set(float(on))

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nothing runs any more; False when the time is over."""
        if not self._active:
            return True
        self._idle.clear()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    @property
    def active(self) -> int:
        """Generations that run."""
        return self._active

    def entered(self) -> None:
        self._active += 1

    def left(self) -> None:
        self._active -= 1
        if not self._active:
            self._idle.set()

    async def not_ready(self) -> list[str]:
        """Why this server should get no traffic; empty when it should."""
        reasons = []
        if self.draining:
            reasons.append("draining")
        if self.guard is not None and (fault := await self._guard_fault(self.guard)) is not None:
            reasons.append(f"guard: {fault}")
        return reasons

    def watch(self, app: App) -> None:
        """Begin what goes on beside the requests, in tasks of the running loop; a second call changes nothing.

        A guard is proven in rounds: until the first comes back as it must, and after several that do not, nothing is
        served. An engine that counts reasoning is asked whether it keeps thinking budgets.

        Args:
            app: the application with this door in front of it.
        """
        if self._tasks:
            return
        loop = asyncio.get_running_loop()
        if self.guard is not None:
            self._rounds = GuardCanaryMonitor(
                self.settings.guard, served_name(self.settings), self.metrics, self._insider
            )
            self._tasks.append(loop.create_task(self._rounds.run(app)))
        if self._counts_reasoning and self.budgets.enforced is None:
            self._tasks.append(loop.create_task(self._probe_budgets(app)))

    async def close(self) -> None:
        """End what `watch` began, and the guard's connections."""
        for task in self._tasks:
            task.cancel()
        if self.guard is not None:
            await self.guard.close()

    async def _probe_budgets(self, app: App) -> None:
        """A first request with a budget, of our own: it makes the door ask the engine."""
        question = [{"role": "user", "content": "Hello"}]
        body = {"model": served_name(self.settings), "messages": question, "max_tokens": 1, "reasoning": {"budget": 1}}
        try:
            await request_app(app, own_scope(self._insider), "POST", "/v1/chat/completions", body)
        except Exception as error:  # The first client who asks for a budget makes the door ask again.
            log.warning("budget_probe_failed", extra={"error": type(error).__name__})

    async def _guard_fault(self, guard: ResilientGuard) -> str | None:
        if self._rounds is not None and self._rounds.fault is not None:
            return f"canary: {self._rounds.fault}"
        if guard.breaker == "open":
            return "breaker open"
        now = monotonic()
        if self._probed is None or now - self._probed[0] >= _PROBE_EVERY_S:
            self._probed = now, await guard.probe()
        return self._probed[1]

    # --- guard

    async def judge(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        """Ask the guard, and count its answer. Only call it where there is one."""
        assert self.guard is not None
        verdict = await self.guard.check(messages, stage)
        labeled(self.metrics.guard_verdicts, self.guard.name, stage, verdict.outcome).inc()
        labeled(self.metrics.guard_check_duration, self.guard.name, stage).observe(verdict.seconds)
        return verdict

    def refusal(self, verdict: GuardVerdict, stage: str) -> APIError:
        """The answer that belongs to a verdict other than allow. An outage must not look like a refusal."""
        if verdict.outcome == "block":
            what = "The request" if stage == "input" else "The answer"
            return APIError(
                400,
                "guard_blocked",
                f"{what} was blocked by the safety guard.",
                reason=f"guard_blocked_{stage}",
                extra={"guard": {"stage": stage, "categories": list(verdict.categories)}},
            )
        after = self.guard.retry_after_s if self.guard is not None else 1.0
        return APIError(
            503,
            "guard_unavailable",
            "The safety guard gave no verdict; nothing is served without.",
            retry_after_s=after,
        )


def served_name(settings: Settings) -> str:
    """The name that clients put into `model`."""
    return settings.model.served_name or settings.model.id


def _serving_facts(settings: Settings) -> ServingFacts | None:
    try:
        card = resolve_model(settings.model.id).card
    except CatalogError:  # the door may stand before a model that only its engine knows
        return None
    return card.serving if card is not None else None


def _anonymous(settings: Settings) -> Key:
    scopes = settings.access.anonymous_scopes
    if scopes is None:
        demo = settings.server.profile == "demo" and settings.access.keys_file is None
        default: tuple[Scope, ...] = ("inference", "metrics") if demo else ()
        scopes = default
    return Key("anonymous", frozenset(scopes))


def _documents(handover: GatewayConfig, guard: ResilientGuard | None) -> Mapping[str, Any]:
    settings = handover.settings
    about = {
        "service": "hybridserve",
        "version": __version__,
        "model": served_name(settings),
        "guard": None
        if guard is None
        else {"name": guard.name, "input": settings.guard.input, "output": settings.guard.output},
    }
    return {"/about": about, **handover.documents}
