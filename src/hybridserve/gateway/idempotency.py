"""Idempotency-Key: a client that repeats a request gets the response of the first one again.

Responses are kept in this process for a limited time and size. With several replicas HAProxy sends a key to the replica
that has its response; when that replica is gone, the request is computed again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.types import Event, RawHeaders, Send

_MAX_KEY_LENGTH = 255
# Size of one stored response, and of all of them.
MAX_RESPONSE_BYTES = 1024 * 1024
MAX_TOTAL_BYTES = 64 * 1024 * 1024
# Headers that belong to one request, not to the response.
_PER_REQUEST = (b"x-request-id", b"date")


@dataclass(slots=True)
class IdempotencyEntry:
    """The response to a request with an Idempotency-Key; `finished` is set once it is whole and successful."""

    index: tuple[str, bytes, bytes]
    digest: bytes
    stored_at: float = 0.0
    finished: bool = False
    size: int = 0
    events: list[Event] = field(default_factory=list)

    def recording(self, send: Send) -> Send:
        """`send` with a copy of every message kept. A response that is too large to store is still sent."""

        async def record(message: Event) -> None:
            self.size += len(message.get("body", b""))
            if self.size <= MAX_RESPONSE_BYTES:
                self.events.append(message)
            await send(message)

        return record

    async def replay(self, send: Send, headers: RawHeaders) -> None:
        """Send the stored response with the headers of this request."""
        for message in self.events:
            if message["type"] == "http.response.start":
                replaced = {name for name, _ in headers} | set(_PER_REQUEST)
                kept = [pair for pair in message["headers"] if pair[0] not in replaced]
                message = {**message, "headers": [*kept, *headers, (b"idempotency-replayed", b"true")]}
            await send(message)


class IdempotencyCache:
    """Responses by API key and idempotency key.

    Args:
        ttl_s: how long a response is kept, in seconds.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._ttl = ttl_s
        self._clock = clock
        self._entries: OrderedDict[tuple[str, bytes, bytes], IdempotencyEntry] = OrderedDict()
        self._bytes = 0

    def open(self, key: Key, ident: bytes, route: str, body: bytes) -> IdempotencyEntry:
        """The entry of one request: finished, or a new one that the caller passes to `close` in the end.

        Raises:
            APIError: 400, the idempotency key is not valid; 409, its first request still runs; 422, it was used for
                another request.
        """
        if not 0 < len(ident) <= _MAX_KEY_LENGTH or not ident.isascii() or not ident.decode("latin-1").isprintable():
            message = f"Idempotency-Key must be 1 to {_MAX_KEY_LENGTH} printable ASCII characters."
            raise APIError(400, "invalid_idempotency_key", message)
        self._expire()
        digest = hashlib.sha256(route.encode() + b"\0" + body).digest()
        index = (key.name, key.digest, ident)
        known = self._entries.get(index)
        if known is not None:
            if known.digest != digest:
                message = "This Idempotency-Key was used for a different request."
                raise APIError(422, "idempotency_key_reused", message)
            if not known.finished:
                message = "The first request with this Idempotency-Key is still running."
                raise APIError(409, "idempotency_in_progress", message, retry_after_s=1.0)
            return known
        entry = self._entries[index] = IdempotencyEntry(index, digest)
        return entry

    def close(self, entry: IdempotencyEntry, *, keep: bool) -> None:
        """Store the response, or forget the request."""
        del self._entries[entry.index]
        if keep and entry.size <= MAX_RESPONSE_BYTES:
            entry.finished, entry.stored_at = True, self._clock()
            self._entries[entry.index] = entry
            self._bytes += entry.size

    def _expire(self) -> None:
        """Remove old responses, and the oldest while the total is too large. Running requests stay."""
        now = self._clock()
        for index, entry in list(self._entries.items()):
            if not entry.finished:
                continue
            if entry.stored_at + self._ttl > now and self._bytes <= MAX_TOTAL_BYTES:
                break
            self._bytes -= entry.size
            del self._entries[index]
