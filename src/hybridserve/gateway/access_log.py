"""One request at the door: what is known of it, and its line in the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.auth.routes import Route
from hybridserve.gateway.tracing import end
from hybridserve.gateway.types import Receive, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = logging.getLogger("hybridserve.access")


class AccessLogEntry:
    """One line of the log: who, what, how it went. Never a key, a prompt or an answer."""

    __slots__ = ("_began", "ident", "key", "method", "reason", "route", "span", "status", "tokens")

    def __init__(self, ident: str, method: str, began: float) -> None:
        self.ident = ident
        self.method = method
        self._began = began
        self.route = "other"
        self.key = "-"
        self.status = 0
        self.reason = "-"
        self.tokens: int | None = None
        self.span: Span | None = None

    def close(self) -> None:
        if self.span is not None:
            end(self.span, key=self.key, status=self.status, reason=self.reason, tokens=self.tokens)
        if log.isEnabledFor(logging.INFO):
            log.info(
                "request",
                extra={
                    "id": self.ident,
                    "key": self.key,
                    "method": self.method,
                    "route": self.route,
                    "status": self.status,
                    "reason": self.reason,
                    "ms": round((perf_counter() - self._began) * 1000, 1),
                    "tokens": self.tokens,
                },
            )


@dataclass(frozen=True, slots=True)
class RequestContext:
    """A request that was let in, and where its answer goes.

    Attributes:
        scope: what the app behind is told.
        ours: headers that every answer gets.
    """

    route: Route
    key: Key
    scope: Scope
    receive: Receive
    send: Send
    ours: list[tuple[bytes, bytes]]
    visit: AccessLogEntry
