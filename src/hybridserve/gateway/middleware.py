"""The one class that every request passes, the same in all modes: pure ASGI, no framework, no engine."""

from __future__ import annotations

import asyncio
import json
import traceback
from dataclasses import replace
from functools import partial
from time import perf_counter

from hybridserve.gateway.access_log import AccessLogEntry, RequestContext, log
from hybridserve.gateway.auth.api_keys import extract_api_key
from hybridserve.gateway.auth.routes import Route, route_path
from hybridserve.gateway.config import GatewayConfig, from_environ
from hybridserve.gateway.errors import APIError, clean_error, first_header, send_json
from hybridserve.gateway.headers import inner_headers, request_id
from hybridserve.gateway.internal_request import request_app
from hybridserve.gateway.limits.prompt_length import check_prompt_length
from hybridserve.gateway.limits.rate_limit import Reservation
from hybridserve.gateway.requests.api_formats import Unreadable
from hybridserve.gateway.requests.body import BufferedReceive, read_body, run_app
from hybridserve.gateway.requests.policy import GenerationRequest, apply_request_policy
from hybridserve.gateway.responses.guarded_response import STALLED, GuardedResponse
from hybridserve.gateway.responses.moderation_buffer import ModerationBuffer
from hybridserve.gateway.state import GatewayState
from hybridserve.gateway.types import App, Event, RawHeaders, Receive, Scope, Send
from hybridserve.guards import GuardVerdict
from hybridserve.observability.metrics import labeled
from hybridserve.settings import Settings


class GatewayMiddleware:
    """Who are you, may you, is it safe; then the app.

    Args:
        app: the ASGI app behind: vLLM's own, or Ray Serve's ingress.
        settings: all settings; alone they are enough.
        handover: settings with documents and headers from other rooms.
        control: a ready `GatewayState`, where the one who serves keeps it for drain and readiness.

    With none of them it reads ``HYBRIDSERVE_SETTINGS_JSON``, as under ``vllm serve --middleware``.

    Raises:
        ConfigError: the settings cannot be used.
    """

    def __init__(
        self,
        app: App,
        settings: Settings | None = None,
        *,
        handover: GatewayConfig | None = None,
        control: GatewayState | None = None,
    ) -> None:
        self.app = app
        if control is None:
            control = GatewayState(handover or (GatewayConfig(settings) if settings is not None else from_environ()))
        self.control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            # No route of ours speaks it, and its traffic could not be checked.
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "not open"})
        elif scope["type"] == "lifespan":
            # The engine is there, and the server is about to listen. Starlette's routes need the app around us.
            self.control.watch(scope.get("app", self))
            try:
                await self.app(scope, receive, send)
            finally:
                await self.control.close()
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        given = scope["headers"]
        method, path = scope["method"], route_path(scope)
        ident = request_id(first_header(given, b"x-request-id"))
        ours = [*self.control.headers]
        if self.control.names_requests:
            ours.append((b"x-request-id", ident))
        visit = AccessLogEntry(ident.decode(), method, began)
        try:
            if method == "OPTIONS" and self.control.routes.known(path) and first_header(given, b"origin"):
                await self._pass(scope, receive, send, ours, visit)  # a browser's preflight carries no key
                return
            route = self.control.routes.find(method, path)
            visit.route = route.name if route is not None else "other"
            key = self.control.admit(route, extract_api_key(given), scope)
            visit.key = key.name
            assert route is not None
            inner: Scope = {**scope, "headers": inner_headers(given, ident)}
            if route.kind == "own" and await self._own(route, path, inner, send, ours, visit):
                return
            if route.dialect is None:
                await self._pass(inner, receive, send, ours, visit)
            else:
                visit.span, inner["headers"] = self.control.spans.begin(f"hybridserve {route.name}", inner["headers"])
                await self._generate(RequestContext(route, key, inner, receive, send, ours, visit))
        except APIError as refusal:
            labeled(self.control.metrics.requests_rejected, visit.route, refusal.reason).inc()
            visit.status, visit.reason = refusal.status, refusal.reason
            await refusal.send(send, ours)
        except ConnectionResetError:
            visit.status, visit.reason = 499, "client_gone"
        finally:
            visit.close()

    # --- what the door answers itself

    async def _own(
        self, route: Route, path: str, inner: Scope, send: Send, ours: RawHeaders, visit: AccessLogEntry
    ) -> bool:
        """Answer one of our own routes; False where the app behind may have it."""
        status, document = 200, self.control.documents.get(path)
        if route.name == "ready":
            reasons = await self.control.not_ready()
            health = await request_app(self.app, inner, "GET", "/health")
            # 404: the app has no such route, as Ray's ingress; its health is looked after by Ray.
            if health.status not in (200, 404):
                reasons.append(f"engine: /health answers {health.status}")
            status, document = (503 if reasons else 200), {"ready": not reasons, "reasons": reasons}
        elif route.name == "drain":
            self.control.drain(visit.method == "POST")
            document = {"draining": self.control.draining, "active": self.control.active}
        elif document is None:
            return False
        visit.status = status
        body = json.dumps(document, indent=2).encode()
        await send_json(send, status, b"" if visit.method == "HEAD" else body, ours)
        return True

    # --- what goes through as it is

    async def _pass(self, scope: Scope, receive: Receive, send: Send, ours: RawHeaders, visit: AccessLogEntry) -> None:
        """Routes that generate nothing: our headers on the answer, errors cleaned."""
        start: Event | None = None
        held: list[bytes] = []

        async def out(message: Event) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*kept, *ours]}
                if visit.status >= 400:
                    start = message
                    return
            elif start is not None:
                held.append(message.get("body", b""))
                if not message.get("more_body", False):
                    cleaned = clean_error(visit.status, b"".join(held))
                    drop = (b"content-length", b"content-type")
                    kept = [pair for pair in start["headers"] if pair[0].lower() not in drop]
                    await send_json(send, visit.status, cleaned, kept)
                return
            await send(message)

        if visit.method in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, out)
            return
        body = await read_body(receive, self.control.settings.access.max_body_bytes, _declared_length(scope))
        await run_app(self.app, scope, BufferedReceive(receive, body), out)

    # --- what generates

    async def _generate(self, exchange: RequestContext) -> None:
        control, key, visit = self.control, exchange.key, exchange.visit
        control.check_open(key)
        control.limits.request(key)
        most = control.settings.access.max_body_bytes
        raw = await read_body(exchange.receive, most, _declared_length(exchange.scope))
        ident = first_header(exchange.scope["headers"], b"idempotency-key")
        if ident is None:
            await self._answer(exchange, raw)
            return
        with control.answers.open(key, ident, exchange.route.name, raw) as ticket:
            if ticket.kept is not None:
                visit.status, visit.reason = 200, "replayed"
                await ticket.replay(exchange.send, exchange.ours)
                return
            await self._answer(replace(exchange, send=ticket.recording(exchange.send)), raw)
            ticket.good = visit.status == 200 and visit.reason == "-"

    async def _answer(self, exchange: RequestContext, raw: bytes) -> None:
        control, settings = self.control, self.control.settings
        route, key, scope, visit = exchange.route, exchange.key, exchange.scope, exchange.visit
        assert route.dialect is not None
        waited = perf_counter()
        call = apply_request_policy(raw, route.dialect, settings, key)
        await check_prompt_length(self.app, scope, call, settings.access.max_prompt_tokens)
        await self._set_budget(scope, call)
        metered = control.limits.counts_tokens(key)
        if metered:
            call.ask_for_usage()
        lease = control.limits.open(key, call.reserve())
        control.entered()
        used: int | None = None
        gate: asyncio.Task[GuardVerdict] | None = None
        try:
            before_guard = perf_counter()
            line = BufferedReceive(exchange.receive, call.payload())
            gate = await self._guard_input(call, line)
            guarded = perf_counter() - before_guard
            reply = self._reply(exchange, line, call, gate, lease, metered)
            inner = {**scope, "headers": _with_length(scope["headers"], len(call.raw))}
            overhead = labeled(control.metrics.gateway_overhead, route.name)
            overhead.observe(perf_counter() - waited - guarded)
            labeled(control.metrics.requests_admitted, route.name).inc()
            await self._run(inner, line, reply, visit)
            used = reply.tokens
            visit.tokens = used
            visit.status, visit.reason = reply.status, reply.cut or "-"
            if reply.cut is not None:
                labeled(control.metrics.streams_aborted, reply.cut).inc()
        except asyncio.CancelledError:
            # Ray Serve cancels a request whose client is gone, often before the line says so.
            visit.status, visit.reason = 499, "client_gone"
            labeled(control.metrics.streams_aborted, "client_gone").inc()
            raise
        finally:
            if gate is not None:
                gate.cancel()
            self._settle(lease, used)
            control.left()

    async def _run(self, scope: Scope, line: BufferedReceive, reply: GuardedResponse, visit: AccessLogEntry) -> None:
        """The app, and an end of the answer that shows how it went."""
        failed = False
        try:
            await run_app(self.app, scope, line, reply)
        except Exception as error:
            failed = True
            if reply.cut != STALLED:  # else we broke its sending off ourselves
                # Type and place only: a message may quote the prompt.
                frame = traceback.extract_tb(error.__traceback__)[-1]
                at = f"{frame.filename}:{frame.lineno}"
                log.error("engine_app_error", extra={"id": visit.ident, "error": type(error).__name__, "at": at})
        await reply.finish(failed)

    async def _set_budget(self, scope: Scope, call: GenerationRequest) -> None:
        """Pass a thinking budget to the engine.

        Raises:
            APIError: 400, budgets are not enforced here; 503, it is not known yet.
        """
        budget = call.wish.budget if call.wish is not None else None
        if budget is not None:
            await self.control.budgets.require(self.app, scope, call.body.get("model"))
            call.body["thinking_token_budget"] = budget

    async def _guard_input(self, call: GenerationRequest, line: BufferedReceive) -> asyncio.Task[GuardVerdict] | None:
        """Check the prompt now, or start to while the engine prefills.

        Raises:
            APIError: blocked, no verdict, or not readable.
        """
        guard = self.control.settings.guard
        if self.control.guard is None or guard.input == "off":
            return None
        try:
            call.messages = call.dialect.messages(call.body)
        except Unreadable as error:
            raise APIError(400, "guard_unreadable", f"The safety guard reads text only: {error}.") from None
        if guard.input == "before":
            verdict = await self.control.judge(call.messages, "input")
            if not verdict.allowed:
                raise self.control.refusal(verdict, "input")
            return None
        task = asyncio.ensure_future(self.control.judge(call.messages, "input"))

        def stop_engine(done: asyncio.Task[GuardVerdict]) -> None:
            if not done.cancelled() and not done.result().allowed:
                line.hang_up()

        task.add_done_callback(stop_engine)
        return task

    def _reply(
        self,
        exchange: RequestContext,
        line: BufferedReceive,
        call: GenerationRequest,
        gate: asyncio.Task[GuardVerdict] | None,
        lease: Reservation,
        metered: bool,
    ) -> GuardedResponse:
        control, guard = self.control, self.control.settings.guard
        judge = window = None
        if control.guard is not None and guard.output:
            # Without a check of the prompt the answer is judged alone.
            prompt = call.messages or []

            async def judge(text: str) -> GuardVerdict:
                return await control.judge([*prompt, {"role": "assistant", "content": text}], "output")

            window = ModerationBuffer(judge, guard.window, guard.overlap_tokens, guard.max_hold_s)
        return GuardedResponse(
            exchange.send,
            line,
            call,
            exchange.ours,
            judge=judge,
            window=window,
            gate=gate,
            refuse=control.refusal,
            want_usage=metered or call.hide_usage,
            stalled_s=control.settings.access.stalled_reader_s,
            lost=control.engine_lost,
            ended=partial(self._settle, lease),
        )

    def _settle(self, lease: Reservation, used: int | None) -> None:
        if lease.close(used) and used is not None:
            self.control.metrics.rate_limited_tokens.inc(used)


def _declared_length(scope: Scope) -> int | None:
    value = first_header(scope["headers"], b"content-length")
    return int(value) if value is not None and value.isdigit() else None


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [pair for pair in headers if pair[0] not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(length).encode())]
