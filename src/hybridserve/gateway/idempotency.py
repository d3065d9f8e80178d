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
# Size of one stored response, and of all of them with those that are being recorded.
MAX_RESPONSE_BYTES = 1024 * 1024
MAX_TOTAL_BYTES = 64 * 1024 * 1024
# Python objects of one entry, its index and its headers; measured by tests/unit/gateway/test_idempotency.py.
ENTRY_BYTES = 1536
# Headers that belong to one request, not to the response.
_PER_REQUEST = (b"x-request-id", b"date")

Index = tuple[str, bytes, bytes]


@dataclass(slots=True)
class IdempotencyEntry:
    """The response to a request with an Idempotency-Key.

    Attributes:
        finished: the response is whole and successful.
        body: None where it became too large to store.
        size: bytes that the store counts for this entry.
    """

    index: Index
    digest: bytes
    store: IdempotencyCache
    stored_at: float = 0.0
    finished: bool = False
    size: int = ENTRY_BYTES
    start: Event = field(default_factory=dict)
    body: bytearray | None = field(default_factory=bytearray)

    def recording(self, send: Send) -> Send:
        """`send` that also keeps the response. One that is too large to store is still sent."""

        async def record(message: Event) -> None:
            if message["type"] == "http.response.start":
                self.start = message
            elif self.body is not None:
                self.add(message.get("body", b""))
            await send(message)

        return record

    def add(self, data: bytes) -> None:
        """Keep the next part of the body, if it fits."""
        assert self.body is not None
        if len(self.body) + len(data) <= MAX_RESPONSE_BYTES and self.store.claim(len(data)):
            self.body += data
            self.size += len(data)
        else:
            self.store.forget(len(self.body))
            self.size -= len(self.body)
            self.body = None

    async def replay(self, send: Send, headers: RawHeaders) -> None:
        """Send the stored response with the headers of this request."""
        replaced = {name for name, _ in headers} | set(_PER_REQUEST)
        kept = [pair for pair in self.start["headers"] if pair[0] not in replaced]
        await send({**self.start, "headers": [*kept, *headers, (b"idempotency-replayed", b"true")]})
        assert self.body is not None
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": False})


class IdempotencyCache:
    """Responses by API key and idempotency key.

    Args:
        ttl_s: how long a response is kept, in seconds.

    Attributes:
        size: bytes of all entries, running ones included.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float] = monotonic) -> None:
        self.size = 0
        self._ttl = ttl_s
        self._clock = clock
        self._running: dict[Index, IdempotencyEntry] = {}
        # In the order of `stored_at`. A plain dict is slow to give its first entry after many deletions there.
        self._stored: OrderedDict[Index, IdempotencyEntry] = OrderedDict()

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
        known = self._running.get(index) or self._stored.get(index)
        if known is not None:
            if known.digest != digest:
                message = "This Idempotency-Key was used for a different request."
                raise APIError(422, "idempotency_key_reused", message)
            if not known.finished:
                message = "The first request with this Idempotency-Key is still running."
                raise APIError(409, "idempotency_in_progress", message, retry_after_s=1.0)
            return known
        self.claim(ENTRY_BYTES, always=True)
        entry = self._running[index] = IdempotencyEntry(index, digest, self)
        return entry

    def close(self, entry: IdempotencyEntry, *, keep: bool) -> None:
        """Store the response, or forget the request."""
        del self._running[entry.index]
        if keep and entry.body is not None:
            entry.finished, entry.stored_at = True, self._clock()
            self._stored[entry.index] = entry
        else:
            self.forget(entry.size)

    def claim(self, size: int, *, always: bool = False) -> bool:
        """Count `size` more bytes, and remove the oldest responses for them; False if running requests use all.

        Args:
            always: count them even so: an entry itself, of which as many as `access.max_in_flight` can run.
        """
        while self._stored and self.size + size > MAX_TOTAL_BYTES:
            self._drop_oldest()
        if not always and self.size + size > MAX_TOTAL_BYTES:
            return False
        self.size += size
        return True

    def forget(self, size: int) -> None:
        """Count `size` bytes less."""
        self.size -= size

    def _expire(self) -> None:
        now = self._clock()
        while self._stored and next(iter(self._stored.values())).stored_at + self._ttl <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self.forget(self._stored.popitem(last=False)[1].size)
