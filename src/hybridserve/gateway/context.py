"""State of one request on its way through the gateway, and its access-log line."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.auth.routes import OTHER, Route
from hybridserve.gateway.headers import request_id
from hybridserve.gateway.idempotency import IdempotencyEntry
from hybridserve.gateway.limits.rate_limit import Reservation
from hybridserve.gateway.limits.streamed_tokens import StreamedTokens
from hybridserve.gateway.requests.body import BufferedReceive
from hybridserve.gateway.requests.policy import GenerationRequest
from hybridserve.gateway.state import GatewayState
from hybridserve.gateway.tracing import end_span
from hybridserve.gateway.types import App, Receive, Scope, Send
from hybridserve.guards import GuardVerdict

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = logging.getLogger("hybridserve.access")

_NO_KEY = Key("-", frozenset())


@dataclass(slots=True)
class RequestContext:
    """One HTTP request. Each step reads and sets its fields.

    Attributes:
        scope: what the app receives; only with listed headers once the request is authenticated.
        headers: added to every response.
        body: the request body; `request` is the parsed body of a generation request.
        receive: the client's; `engine_receive` is the engine's, which replays the body.
        input_check: check of the prompt that runs while the engine computes.
        counts_tokens: the key has a token limit.
        streamed: what the engine has streamed, where tokens count.
        read_at: when the body was complete (`perf_counter`); `guard_s` are seconds spent on the guard since then.
        status, reason, tokens: the outcome, for the log, the span and the metrics.
    """

    app: App
    state: GatewayState
    scope: Scope
    receive: Receive
    send: Send
    request_id: bytes = field(init=False)
    headers: list[tuple[bytes, bytes]] = field(init=False)
    started_at: float = field(default_factory=perf_counter)
    route: Route = OTHER
    key: Key = _NO_KEY
    span: Span | None = None
    body: bytes = b""
    request: GenerationRequest = field(init=False)
    engine_receive: BufferedReceive = field(init=False)
    idempotency_key: bytes | None = None
    idempotency: IdempotencyEntry | None = None
    reservation: Reservation | None = None
    input_check: asyncio.Task[GuardVerdict] | None = None
    counts_tokens: bool = False
    streamed: StreamedTokens = field(default_factory=StreamedTokens)
    read_at: float = 0.0
    guard_s: float = 0.0
    status: int = 0
    reason: str = "-"
    tokens: int | None = None

    def __post_init__(self) -> None:
        self.request_id = request_id(self.scope["headers"])
        self.headers = [*self.state.headers]
        if self.state.sends_request_id:
            self.headers.append((b"x-request-id", self.request_id))

    def settle(self, tokens: int | None) -> None:
        """Free the concurrency slot and charge the tokens used, once.

        Args:
            tokens: as the engine reported them. None, where a stream ended early, charges the prompt and what was
                streamed, or the whole reservation where nothing was.
        """
        assert self.reservation is not None
        if tokens is None and self.streamed.estimate:
            tokens = self.request.estimated_prompt() + self.streamed.estimate
        if self.reservation.release(tokens) and tokens is not None:
            self.state.metrics.rate_limited_tokens.inc(tokens)

    def close(self) -> None:
        """End the span and write the access-log line. It has no key, no prompt and no response text.

        The service's own requests (self-tests, token counts) are logged at debug level.
        """
        if self.span is not None:
            end_span(self.span, key=self.key.name, status=self.status, reason=self.reason, tokens=self.tokens)
        level = logging.DEBUG if self.key.internal else logging.INFO
        if log.isEnabledFor(level):
            generated = self.route.kind == "generate"
            counts = self.state.token_counts(self.request_id.decode()) if generated else None
            prompt, output = counts or (None, None)
            log.log(
                level,
                "request",
                extra={
                    "id": self.request_id.decode(),
                    "key": self.key.name,
                    "method": self.scope["method"],
                    "route": self.route.name,
                    "status": self.status,
                    "reason": self.reason,
                    "ms": round((perf_counter() - self.started_at) * 1000, 1),
                    "tokens": self.tokens,
                    "prompt_tokens": prompt,
                    "output_tokens": output,
                },
            )
