"""Server-sent events as bytes: whole events out of arbitrary chunks, and what an event says."""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """An event without end."""


class SSEDecoder:
    """Collects chunks and gives whole events, line ends unified to LF. A UTF-8 character or an event that a chunk
    cuts in two waits for its other half."""

    __slots__ = ("_limit", "_rest", "_started")

    def __init__(self, limit: int = 4 * 1024 * 1024) -> None:
        self._rest = b""
        self._limit = limit
        self._started = False

    def feed(self, data: bytes) -> bytes:
        """All events that are complete by now, back to back; each ends in an empty line.

        Raises:
            EventTooLarge: an incomplete event beyond the limit.
        """
        if not self._started and data:
            self._started = True
            data = data.removeprefix(_BOM)
        # What engines send: one or more whole events a chunk.
        if not self._rest and data.endswith(b"\n\n") and b"\r" not in data:
            return data
        data = self._rest + data
        if b"\r" in data:
            # A CR at the end may be the first half of CR LF.
            held = b"\r" if data.endswith(b"\r") else b""
            data = (data[:-1] if held else data).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if held and not data.endswith(b"\n"):
                held = b"\r"
        else:
            held = b""
        cut = data.rfind(b"\n\n")
        whole, rest = (b"", data) if cut < 0 else (data[: cut + 2], data[cut + 2 :])
        self._rest = rest + held
        if len(self._rest) > self._limit:
            raise EventTooLarge
        return whole

    @property
    def rest(self) -> bytes:
        """What has come of an event that is not complete."""
        return self._rest


def events(blob: bytes) -> list[bytes]:
    """The events of a run of whole ones."""
    return [part + b"\n\n" for part in blob.split(b"\n\n") if part.strip(b"\n")]


def data_of(event: bytes) -> str | None:
    """The data of an event, or None where it has none (a comment).

    Raises:
        UnicodeDecodeError: the bytes are not UTF-8.
    """
    lines = []
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines).decode("utf-8") if lines else None
