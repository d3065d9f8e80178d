"""Idempotency-Key: a client that asks again, because it does not know what became of its request, gets the same answer.

Kept in this process, for a while, and within a bound. With several replicas HAProxy sends one key to one replica; when
that replica is gone, the request is answered anew.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.types import Event, RawHeaders, Send

_LONGEST_KEY = 255
# Of one answer, and of all that are kept.
MAX_ANSWER_BYTES = 1024 * 1024
MAX_BYTES = 64 * 1024 * 1024
# Belong to one exchange, not to the answer.
_PER_EXCHANGE = (b"x-request-id", b"date")


@dataclass(slots=True)
class IdempotencyEntry:
    """One request. `kept` is the answer that an earlier one got; set `good` when this one got a whole answer."""

    kept: tuple[Event, ...] | None = None
    good: bool = False
    size: int = 0
    events: list[Event] = field(default_factory=list)

    def recording(self, send: Send) -> Send:
        """`send`, and a copy of what passes. An answer too large to keep passes all the same."""

        async def out(message: Event) -> None:
            self.size += len(message.get("body", b""))
            if self.size <= MAX_ANSWER_BYTES:
                self.events.append(message)
            await send(message)

        return out

    async def replay(self, send: Send, headers: RawHeaders) -> None:
        """Send the kept answer with the headers of this exchange."""
        for message in self.kept or ():
            if message["type"] == "http.response.start":
                known = {name for name, _ in headers} | set(_PER_EXCHANGE)
                old = [pair for pair in message["headers"] if pair[0] not in known]
                message = {**message, "headers": [*old, *headers, (b"idempotency-replayed", b"true")]}
            await send(message)


@dataclass(frozen=True, slots=True)
class _Known:
    """A request of this key: its digest, when it began, and its answer once that is whole."""

    digest: bytes
    at: float
    size: int = 0
    events: tuple[Event, ...] | None = None


class IdempotencyCache:
    """IdempotencyCache by the caller's key and the idempotency key.

    Args:
        ttl_s: how long an answer is kept.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._ttl = ttl_s
        self._clock = clock
        self._known: OrderedDict[tuple[str, bytes, bytes], _Known] = OrderedDict()
        self._bytes = 0

    @contextmanager
    def open(self, key: Key, ident: bytes, route: str, raw: bytes) -> Iterator[IdempotencyEntry]:
        """A ticket for one request; on the way out its answer is kept if it was good, else forgotten.

        Raises:
            APIError: 400, not a usable key; 409, its request still runs; 422, it was used for another request.
        """
        if not 0 < len(ident) <= _LONGEST_KEY or not ident.isascii() or not ident.decode("latin-1").isprintable():
            message = f"Idempotency-Key is 1 to {_LONGEST_KEY} printable ASCII characters."
            raise APIError(400, "invalid_idempotency_key", message)
        self._expire()
        digest = hashlib.sha256(route.encode() + b"\0" + raw).digest()
        index = (key.name, key.digest, ident)
        known = self._known.get(index)
        if known is not None:
            if known.digest != digest:
                raise APIError(422, "idempotency_key_reused", "This Idempotency-Key belongs to another request.")
            if known.events is None:
                message = "The request with this Idempotency-Key still runs."
                raise APIError(409, "idempotency_in_progress", message, retry_after_s=1.0)
            yield IdempotencyEntry(kept=known.events)
            return
        ticket = IdempotencyEntry()
        began = self._known[index] = _Known(digest, self._clock())
        try:
            yield ticket
        finally:
            if self._known.get(index) is began:
                del self._known[index]
                if ticket.good and ticket.size <= MAX_ANSWER_BYTES:
                    self._known[index] = _Known(digest, self._clock(), ticket.size, tuple(ticket.events))
                    self._bytes += ticket.size

    def _expire(self) -> None:
        """Forget what is old, and the oldest while too much is kept. What runs is not forgotten."""
        now = self._clock()
        for index, known in list(self._known.items()):
            if known.events is None:
                continue
            if known.at + self._ttl > now and self._bytes <= MAX_BYTES:
                break
            self._bytes -= known.size
            del self._known[index]
