"""One request as the client saw it, and its outcome. Stored as one line of JSON, so a killed run keeps its records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Any


class Outcome(StrEnum):
    """How a request ended. Every request has exactly one outcome and stays in every denominator."""

    OK = "ok"
    CONNECT = "connect"
    """No connection, or it was closed before a status line."""
    TIMEOUT_FIRST = "timeout_first_token"
    TIMEOUT_IDLE = "timeout_idle"
    """Tokens arrived, then none for too long."""
    CUT = "cut_stream"
    """The stream ended without a finish reason."""
    EMPTY = "empty"
    """Finished without a token."""
    LENGTH = "wrong_length"
    """The end of sequence was ignored, yet the answer does not have the requested length."""
    IN_BAND = "in_band_error"
    """Status 200, then an error inside the stream."""
    GUARD = "guard_blocked"
    NOT_BLOCKED = "not_blocked"
    """Answered, though the guard must block it."""
    GUARD_DOWN = "guard_unavailable"
    DENIED = "denied"
    """401 or 403."""
    LIMIT = "limit"
    """429, or 413: a limit of the service, not a fault."""
    UNAVAILABLE = "unavailable"
    """503 that is not from the guard."""
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    OVERRUN = "reasoning_overrun"
    """More reasoning tokens than the budget allows."""
    BAD_TOOL = "bad_tool_call"
    """The required tool was not called, or its arguments are not JSON."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Instants are seconds since the epoch; everything after `sent` is seconds from `sent`."""

    intended: float
    """When the arrival process scheduled it. In a closed loop: when it was sent."""
    sent: float
    end: float
    """Last event of the stream before [DONE], or the failure."""
    outcome: Outcome
    expected: Outcome = Outcome.OK
    """For traffic that the guard must block, a block is the expected outcome; it has no token times."""
    kind: str = ""
    """Name of its kind in the scenario's mix."""
    turn: int = 0
    level: float = 0.0
    """Users or requests/s of the load curve at `intended`."""
    warm_up: bool = False
    chunks: tuple[float, ...] = ()
    """Arrival time of each chunk with a token."""
    first_answer: float | None = None
    """First token that is not reasoning."""
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    """Prompt tokens from the server's cache; None where it does not report them."""
    output_tokens: int = 0
    """As the server counted them."""
    reasoning_tokens: int = 0
    usage: bool = False
    """Whether the server sent token counts; otherwise chunks are counted."""
    finish_reason: str | None = None
    status: int = 0
    retry_after: float | None = None
    detail: str = ""
    """A short line about a failure; for status 4xx with the first line of the server's message."""
    worker: int = 0
    conversation: int = -1

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def as_expected(self) -> bool:
        return self.outcome is self.expected

    @property
    def queued(self) -> float:
        """Seconds between the intended start and the send."""
        return self.sent - self.intended

    @property
    def ttft(self) -> float | None:
        """Seconds from the intended start to the first token."""
        return self.queued + self.chunks[0] if self.chunks else None

    @property
    def e2e(self) -> float:
        """Seconds from the intended start to the last event."""
        return self.queued + self.end

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first: (last token - first token) / (output tokens - 1)."""
        if not self.chunks or self.output_tokens < 2:
            return None
        return (self.chunks[-1] - self.chunks[0]) / (self.output_tokens - 1)

    @property
    def itls(self) -> Iterator[float]:
        """Gaps between chunks."""
        return (later - earlier for earlier, later in pairwise(self.chunks))

    def to_json(self) -> str:
        """One line; chunk times as whole microseconds between chunks."""
        tree = {name: value for name, value in asdict(self).items() if value != _DEFAULTS.get(name, _MISSING)}
        for name in ("intended", "sent", "end", "first_answer"):
            if name in tree:
                tree[name] = round(tree[name], 6)
        micro = [round(time * 1e6) for time in self.chunks]
        tree["chunks"] = [later - earlier for earlier, later in pairwise([0, *micro])]
        return json.dumps(tree, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """The inverse of `to_json`.

        Raises:
            ValueError, KeyError, TypeError: not such a line.
        """
        tree = json.loads(line)
        tree["outcome"] = Outcome(tree["outcome"])
        tree["expected"] = Outcome(tree.get("expected", Outcome.OK))
        tree["chunks"] = tuple(time / 1e6 for time in accumulate(tree["chunks"]))
        return cls(**tree)


_MISSING = object()
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Record) if field.name != "chunks"}


def read_records(lines: Iterable[str]) -> list[Record]:
    """All complete lines, by intended start; an incomplete last line is skipped."""
    return sorted((Record.from_json(line) for line in lines if line.endswith("\n")), key=lambda record: record.intended)
