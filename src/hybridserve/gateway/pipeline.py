"""The steps of a request. `handle` is the one place that states their order.

A step rejects the request by raising APIError with the status that its docstring names.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from contextlib import suppress
from time import perf_counter

from hybridserve.gateway.auth.routes import route_path
from hybridserve.gateway.context import RequestContext
from hybridserve.gateway.errors import ENGINE_FAILED, APIError, send_json
from hybridserve.gateway.headers import content_length, first_header, forwarded_headers, with_content_length
from hybridserve.gateway.internal_request import request_app
from hybridserve.gateway.limits.prompt_length import check_prompt_length
from hybridserve.gateway.requests.api_formats import parse_object
from hybridserve.gateway.requests.body import BufferedReceive, read_body, run_app
from hybridserve.gateway.requests.judged_text import NestedTooDeeply, Unreadable
from hybridserve.gateway.requests.policy import (
    apply_request_policy,
    nested_too_deeply,
    parse_request,
    require_allowed_template,
)
from hybridserve.gateway.responses.cleaned_response import CleanedResponse
from hybridserve.gateway.responses.guarded_response import STALLED, GuardedResponse
from hybridserve.guards import GuardVerdict
from hybridserve.observability.metrics import labeled

log = logging.getLogger("hybridserve.access")


async def handle(context: RequestContext) -> None:
    """Handle one HTTP request.

    Raises:
        APIError: the request is rejected.
        ConnectionResetError: the client disconnected.
    """
    if is_preflight(context):  # browsers send it without a key
        scope = context.scope
        context.scope = {**scope, "headers": forwarded_headers(scope["headers"], context.request_id)}
        await forward_unchanged(context)
        return
    authenticate(context)
    if context.route.kind == "builtin" and await serve_builtin(context):
        return
    if context.route.format is None:
        if works_for_client(context):
            await limit(context)
        await forward_unchanged(context)
        return
    await limit(context)
    await read(context)
    if await replay(context):
        return
    try:
        parse(context)
        await apply_policy(context)
        await reserve(context)
        await check_length(context)
        await guard_input(context)
        response = GuardedResponse(context)  # the guard checks the output while the engine sends it
        await forward(context, response)
        account(context, response)
    except asyncio.CancelledError:
        # Ray Serve cancels a request whose client is gone, often before `receive` reports the disconnect.
        abort(context)
        raise
    finally:
        release(context)


def is_preflight(context: RequestContext) -> bool:
    """Whether this is a CORS preflight for a listed route."""
    scope = context.scope
    return (
        scope["method"] == "OPTIONS"
        and first_header(scope["headers"], b"origin") is not None
        and context.state.routes.allows_preflight(route_path(scope))
    )


def authenticate(context: RequestContext) -> None:
    """Find the route (404) and the key (401, 403), keep only listed headers for the app, and begin the span."""
    state, scope = context.state, context.scope
    route = state.routes.find(scope["method"], route_path(scope))
    if route is None:
        raise APIError(404, "not_found", "This server has no such route.")
    context.route = route
    context.key = state.authenticator.authenticate(route, scope)
    context.idempotency_key = first_header(scope["headers"], b"idempotency-key")
    headers = forwarded_headers(scope["headers"], context.request_id)
    if context.route.kind == "generate":
        context.span, headers = state.tracer.begin(f"hybridserve {context.route.name}", headers)
    context.scope = {**scope, "headers": headers}


async def serve_builtin(context: RequestContext) -> bool:
    """Respond to one of the gateway's own routes; False if the app should respond."""
    state, method = context.state, context.scope["method"]
    status, document = 200, state.documents.get(route_path(context.scope))
    if context.route.name == "ready":
        problems = await state.readiness.problems()
        health = await request_app(context.app, context.scope, "GET", "/health")
        # 404: the app has no such route, like Ray's ingress, whose health Ray checks itself.
        if health.status not in (200, 404):
            problems.append(f"engine: /health returned {health.status}")
        status = 503 if problems else 200
        document = {"ready": not problems, "reasons": problems, "warnings": state.readiness.warnings()}
        if state.readiness.verify is not None:
            document["verify"] = state.readiness.verify.verdict
    elif context.route.name == "drain":
        state.lifecycle.drain(method == "POST")
        document = {"draining": state.lifecycle.draining, "active": state.lifecycle.active}
    elif document is None:
        return False
    context.status = status
    body = b"" if method == "HEAD" else json.dumps(document, indent=2).encode()
    await send_json(context.send, status, body, context.headers)
    return True


def works_for_client(context: RequestContext) -> bool:
    """Whether a key of scope inference makes the engine work: counting tokens, or a route of `access.open_routes`."""
    return context.route.kind == "forward" and context.route.scope == "inference" and context.scope["method"] == "POST"


async def forward_unchanged(context: RequestContext) -> None:
    """Forward a request that generates nothing: the response gets our headers, and its errors are cleaned."""
    response = CleanedResponse(context)
    has_body = context.scope["method"] not in ("GET", "HEAD", "OPTIONS")
    if has_body:
        await read(context)
        if works_for_client(context):  # /tokenize and its like use the template that makes the prompt
            with suppress(ValueError):  # not a JSON object has no fields, and the engine refuses it
                require_allowed_template(parse_object(context.body), context.state.settings)
    try:
        if has_body:
            await run_app(context.app, context.scope, BufferedReceive(context.receive, context.body), response)
        else:
            await context.app(context.scope, context.receive, response)
    except Exception as error:
        log_app_error(context, error)
        if context.status:
            raise ConnectionResetError from None
        raise APIError(500, "engine_error", ENGINE_FAILED) from None


async def limit(context: RequestContext) -> None:
    """Check that new generations are accepted (503) and that the key may send another request (429)."""
    context.state.readiness.require_accepting(context.key)
    await context.state.limits.count_request(context.key)


async def read(context: RequestContext) -> None:
    """Read the request body (408, 413)."""
    max_bytes = context.state.settings.access.max_body_bytes
    context.body = await read_body(context.receive, max_bytes, content_length(context.scope["headers"]))
    context.read_at = perf_counter()


async def replay(context: RequestContext) -> bool:
    """Send the stored response to an earlier request with this key and Idempotency-Key (400, 409, 422), if any."""
    ident = context.idempotency_key
    if ident is None or context.key.anonymous:
        return False  # requests without a key may come from different people, who must not get each other's answers
    entry = context.state.idempotency.open(context.key, ident, context.route.name, context.body)
    if entry.finished:
        context.status, context.reason = 200, "replayed"
        await entry.replay(context.send, context.headers)
        return True
    context.idempotency = entry
    context.send = entry.recording(context.send)
    return False


def parse(context: RequestContext) -> None:
    """Parse the body of a generation request (400)."""
    assert context.route.format is not None
    context.request = parse_request(context.body, context.route.format)


async def apply_policy(context: RequestContext) -> None:
    """Check the fields (400; 503 if the engine cannot be probed), and set what the gateway adds."""
    state, request = context.state, context.request
    apply_request_policy(request, state.settings, context.key, state.special_tokens)
    budget = request.reasoning.budget if request.reasoning is not None else None
    if budget is not None:
        await state.budgets.require(context.app, context.scope, request.body.get("model"))
        request.body["thinking_token_budget"] = budget
    context.counts_tokens = state.limits.counts_tokens(context.key)
    if context.counts_tokens:
        request.include_usage()


async def reserve(context: RequestContext) -> None:
    """Take a concurrency slot and reserve the tokens that the request may use (429, also where it would be late)."""
    if context.state.late_requests is not None and not context.key.internal:
        context.state.late_requests.check(context.request.estimated_prompt(), context.state.limits.running)
    context.reservation = await context.state.limits.reserve(context.key, context.request.estimated_tokens())
    context.state.lifecycle.enter()


async def check_length(context: RequestContext) -> None:
    """Check the prompt's length (400; 503 if the engine cannot count it): within the key's slots, because it costs."""
    most = context.state.settings.access.max_prompt_tokens
    try:
        await check_prompt_length(context.app, context.scope, context.request, most)
    except APIError:
        context.tokens = 0  # nothing was generated
        raise


async def guard_input(context: RequestContext) -> None:
    """Check the prompt (400, 503), or start the check while the engine computes (`guard.input: overlap`)."""
    checker, request, mode = context.state.guard, context.request, context.state.settings.guard.input
    receive = context.engine_receive = BufferedReceive(context.receive, request.payload())
    if checker is None or mode == "off":
        return
    start = perf_counter()
    try:
        request.messages = request.format.messages(request.body)
    except Unreadable as error:
        raise APIError(400, "guard_unreadable", f"The safety guard reads only text: {error}.") from None
    except NestedTooDeeply:
        raise nested_too_deeply() from None
    if mode == "before":
        verdict = await checker.check(request.messages, "input")
        if not verdict.allowed:
            raise checker.error(verdict, "input")
    else:

        def abort_engine(check: asyncio.Task[GuardVerdict]) -> None:
            if not check.cancelled() and not check.result().allowed:
                receive.disconnect()

        context.input_check = asyncio.ensure_future(checker.check(request.messages, "input"))
        context.input_check.add_done_callback(abort_engine)
    context.guard_s = perf_counter() - start


async def forward(context: RequestContext, response: GuardedResponse) -> None:
    """Run the engine's app, and end the response in a way that shows whether it is complete."""
    metrics, route = context.state.metrics, context.route.name
    headers = with_content_length(context.scope["headers"], len(context.request.raw))
    labeled(metrics.gateway_overhead, route).observe(perf_counter() - context.read_at - context.guard_s)
    labeled(metrics.requests_admitted, route).inc()
    failed = False
    try:
        await run_app(context.app, {**context.scope, "headers": headers}, context.engine_receive, response)
    except Exception as error:
        failed = True
        if response.abort_reason != STALLED:  # else the gateway itself cancelled the send
            log_app_error(context, error)
    await response.finish(failed)


def log_app_error(context: RequestContext, error: Exception) -> None:
    """Log type and place only: the message may quote the prompt."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    at, ident = f"{frame.filename}:{frame.lineno}", context.request_id.decode()
    log.error("engine_app_error", extra={"id": ident, "error": type(error).__name__, "at": at})


def account(context: RequestContext, response: GuardedResponse) -> None:
    """Record the outcome."""
    context.tokens, context.status = response.tokens, response.status
    if response.abort_reason is not None:
        context.reason = response.abort_reason
        labeled(context.state.metrics.streams_aborted, response.abort_reason).inc()


def abort(context: RequestContext) -> None:
    """Record that the client is gone."""
    context.status, context.reason = 499, "client_gone"
    if context.reservation is not None:
        labeled(context.state.metrics.streams_aborted, "client_gone").inc()


def release(context: RequestContext) -> None:
    """Free what the request holds, and store its response if it has an Idempotency-Key and succeeded."""
    if context.input_check is not None:
        context.input_check.cancel()
    if context.reservation is not None:
        context.settle(context.tokens)
        context.state.lifecycle.leave()
    if context.idempotency is not None:
        succeeded = context.status == 200 and context.reason == "-"
        context.state.idempotency.close(context.idempotency, keep=succeeded)
