"""Does a stream end the way it should? Errors in it are cleaned, and a `[DONE]` after an error is taken out."""

from __future__ import annotations

import json
from typing import Any

from hybridserve.gateway.errors import clean_event
from hybridserve.gateway.requests.api_formats import APIFormat
from hybridserve.sse import event_data, split_events

_ERRORS = (b'data: {"error"', b'data:{"error"', b"event: error")
_USAGE = b'"usage":'


class StreamTerminator:
    """Watches whole events on their way out.

    Afterwards `done` says that the stream finished, `failed` that it told of an error, `tokens` what it used
    (None: it did not say).
    """

    __slots__ = ("_dialect", "_hide_usage", "_hint", "_usage", "done", "failed", "tokens")

    def __init__(self, dialect: APIFormat, want_usage: bool, hide_usage: bool) -> None:
        self._dialect = dialect
        self._hint = b"[DONE]" if dialect.name != "responses" else b"event: response."
        self._usage = want_usage
        self._hide_usage = hide_usage
        self.done = False
        self.failed = False
        self.tokens: int | None = None

    def feed(self, blob: bytes) -> bytes:
        """Whole events in, the ones to send out."""
        # Nearly every chunk is plain text: one search for each word that could matter, before any closer look.
        error = b"error" in blob and any(starts(blob, mark) for mark in _ERRORS)
        if not error and not self.failed and not (self._usage and _USAGE in blob):
            if self._hint in blob and any(starts(blob, mark) for mark in self._dialect.ends):
                self.done = True
            return blob
        return b"".join(self._one(event) for event in split_events(blob))

    def _one(self, event: bytes) -> bytes:
        if any(starts(event, mark) for mark in _ERRORS):
            self.failed = True
            payload = _payload(event)
            return b"data: " + json.dumps(clean_event(payload), ensure_ascii=False).encode() + b"\n\n"
        if any(starts(event, mark) for mark in self._dialect.ends):
            if self.failed:
                return b""
            self.done = True
        if self._usage and _USAGE in event:
            payload = _payload(event)
            usage = payload.get("usage") or _dict(payload.get("response")).get("usage")
            total = _dict(usage).get("total_tokens")
            if isinstance(total, int):
                self.tokens = total
            if self._hide_usage and payload.get("choices") == []:
                return b""
        return event


def starts(blob: bytes, mark: bytes) -> bool:
    """Whether a line of the blob starts with the mark. Inside JSON a line end is escaped, so text cannot fake it."""
    return blob.startswith(mark) or b"\n" + mark in blob


def _payload(event: bytes) -> dict[str, Any]:
    try:
        return _dict(json.loads(event_data(event) or ""))
    except (ValueError, RecursionError):
        return {}


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
