"""Estimate of the tokens of a stream that ended before the engine reported its usage."""

from __future__ import annotations

import re

# Text that the model wrote, in chat, completions, Responses and Anthropic events; token lists of logprobs do not match.
_TEXT = re.compile(
    rb'"(?:content|reasoning|reasoning_content|text|thinking|arguments|partial_json|delta)":\s?"((?:[^"\\]|\\.)+)"'
)
# English text has about four bytes per token; an event has at least one token, and more when the engine merges them.
_BYTES_PER_TOKEN = 4


class StreamedTokens:
    """Counts what the engine has streamed."""

    __slots__ = ("_bytes", "_events")

    def __init__(self) -> None:
        self._bytes = 0
        self._events = 0

    def feed(self, data: bytes) -> None:
        """Count a part of the stream as the engine sent it."""
        texts = _TEXT.findall(data)
        self._events += len(texts)
        self._bytes += sum(map(len, texts))

    @property
    def estimate(self) -> int:
        """Output tokens so far."""
        return max(self._events, self._bytes // _BYTES_PER_TOKEN)
