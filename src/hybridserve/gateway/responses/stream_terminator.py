"""Detects whether a stream ended as its API requires, cleans errors in it, and removes a `[DONE]` after an error."""

from __future__ import annotations

import json
from typing import Any

from hybridserve.gateway.errors import clean_error_event
from hybridserve.gateway.requests.api_formats import APIFormat
from hybridserve.sse import event_data, split_events

_ERRORS = (b'data: {"error"', b'data:{"error"', b"event: error")
_USAGE = b'"usage":'
_ANTHROPIC_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


class StreamTerminator:
    """Inspects whole events on their way to the client.

    Attributes:
        done: the stream is complete.
        failed: it contained an error.
        tokens: total tokens used; None if the stream did not report them.
    """

    __slots__ = ("_format", "_hide_usage", "_hint", "_read_usage", "done", "failed", "tokens")

    def __init__(self, api_format: APIFormat, read_usage: bool, hide_usage: bool) -> None:
        self._format = api_format
        self._hint = b"event: " if api_format.named_events else b"[DONE]"
        self._read_usage = read_usage
        self._hide_usage = hide_usage
        self.done = False
        self.failed = False
        self.tokens: int | None = None

    def feed(self, blob: bytes) -> bytes:
        """Take whole events and return those to send."""
        # Nearly every chunk is plain text: one search for each relevant string comes before any parsing.
        error = b"error" in blob and _has_line(blob, _ERRORS)
        if not error and not self.failed and not (self._read_usage and _USAGE in blob):
            if self._hint in blob and _has_line(blob, self._format.ends):
                self.done = True
            return blob
        return b"".join(self._inspect(event) for event in split_events(blob))

    def _inspect(self, event: bytes) -> bytes:
        if _has_line(event, _ERRORS):
            self.failed = True
            return clean_error_event(_payload(event), self._format.errors)
        if _has_line(event, self._format.ends):
            if self.failed:
                return b""
            self.done = True
        if self._read_usage and _USAGE in event:
            payload = _payload(event)
            nested = payload.get("response") or payload.get("message")
            self.tokens = total_tokens(payload) or total_tokens(nested) or self.tokens
            if self._hide_usage and payload.get("choices") == []:
                return b""
        return event


def total_tokens(payload: object) -> int | None:
    """Tokens in the ``usage`` of a response or event; None if it is missing. Anthropic's has no total."""
    usage = payload.get("usage") if isinstance(payload, dict) else None
    if not isinstance(usage, dict):
        return None
    if "total_tokens" in usage:
        total = usage["total_tokens"]
        return total if isinstance(total, int) else None
    counts = [count for field in _ANTHROPIC_COUNTS if isinstance(count := usage.get(field), int)]
    return sum(counts) if counts else None


def _has_line(blob: bytes, marks: tuple[bytes, ...]) -> bool:
    """Whether a line starts with one of the marks. JSON escapes line ends, so that generated text cannot imitate it."""
    return any(blob.startswith(mark) or b"\n" + mark in blob for mark in marks)


def _payload(event: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(event_data(event) or "")
    except (ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}
