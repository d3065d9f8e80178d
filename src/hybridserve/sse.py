"""Server-sent events: whole events out of arbitrary chunks, and the data of an event.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

DONE = "[DONE]"
"""Data of the event that ends a stream of OpenAI's chat and completions APIs."""

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An incomplete event is larger than the decoder's limit."""


class SSEDecoder:
    """Collects chunks and returns whole events with line ends normalized to LF.

    A UTF-8 character or an event that a chunk boundary splits is kept until its other half arrives.

    Args:
        limit: largest incomplete event, in bytes.
    """

    __slots__ = ("_limit", "_rest", "_started")

    def __init__(self, limit: int = 4 * 1024 * 1024) -> None:
        self._rest = b""
        self._limit = limit
        self._started = False

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes, back to back; each ends in an empty line.

        Raises:
            EventTooLarge: an incomplete event beyond the limit.
        """
        if not self._started and data:
            self._started = True
            data = data.removeprefix(_BOM)
        # What engines send: one or more whole events in a chunk.
        if not self._rest and data.endswith(b"\n\n") and b"\r" not in data:
            return data
        data = self._rest + data
        held = b""
        if b"\r" in data:
            # A CR at the end may be the first half of CR LF.
            held = b"\r" if data.endswith(b"\r") else b""
            data = data.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        cut = data.rfind(b"\n\n")
        whole, rest = (b"", data) if cut < 0 else (data[: cut + 2], data[cut + 2 :])
        self._rest = rest + held
        if len(self._rest) > self._limit:
            raise EventTooLarge
        return whole


def split_events(blob: bytes) -> list[bytes]:
    """The events of the whole events in `blob`, each with its empty line."""
    return [part + b"\n\n" for part in blob.split(b"\n\n") if part.strip(b"\n")]


def event_data(event: bytes) -> str | None:
    """The data of an event, or of one of its lines; None where it has none (a comment).

    Raises:
        UnicodeDecodeError: the bytes are not UTF-8.
    """
    lines = []
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines).decode("utf-8") if lines else None
