"""One request as the client saw it, and how it ended. One line of JSON each, so a run that dies keeps its past."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Any


class Outcome(StrEnum):
    """How a request ended. Exactly one of these; none is ever dropped from a denominator."""

    OK = "ok"
    CONNECT = "connect"
    """No connection, or it was closed before a status line."""
    TIMEOUT_FIRST = "timeout_first_token"
    TIMEOUT_IDLE = "timeout_idle"
    """Tokens had come, then nothing for too long."""
    CUT = "cut_stream"
    """The stream ended without a finish reason."""
    EMPTY = "empty"
    """Finished, and not one token."""
    LENGTH = "wrong_length"
    """The end of sequence was to be ignored, and the answer is not as long as was asked."""
    IN_BAND = "in_band_error"
    """Status 200, then an error inside the stream."""
    GUARD = "guard_blocked"
    GUARD_DOWN = "guard_unavailable"
    DENIED = "denied"
    """401 or 403."""
    LIMIT = "limit"
    """429, or 413: a limit of the service, not a fault."""
    UNAVAILABLE = "unavailable"
    """503 that is not the guard's."""
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    OVERRUN = "reasoning_overrun"
    """More reasoning tokens than the budget allows."""
    BAD_TOOL = "bad_tool_call"
    """A tool was to be called, and was not, or with arguments that are not JSON."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Instants are seconds since the epoch; everything after `sent` is seconds from `sent`."""

    intended: float
    """When the arrival process wanted it sent. In a closed loop: when it was sent."""
    sent: float
    end: float
    """Last event of the stream before [DONE], or the failure."""
    outcome: Outcome
    expected: Outcome = Outcome.OK
    """Guard traffic is meant to be blocked: such an answer is as it should be, and has no token times."""
    kind: str = ""
    """Which part of the scenario's mix."""
    turn: int = 0
    level: float = 0.0
    """Users or requests/s that the load curve asked for at `intended`."""
    warm_up: bool = False
    chunks: tuple[float, ...] = ()
    """Arrival of each chunk that carries a token."""
    first_answer: float | None = None
    """First token that is not reasoning."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    """As the server counted them."""
    reasoning_tokens: int = 0
    usage: bool = False
    """The server sent its counts; without them, chunks are counted."""
    finish_reason: str | None = None
    status: int = 0
    retry_after: float | None = None
    detail: str = ""
    """One short line about a failure; never a prompt, an answer or a key."""
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
        """Seconds that the client itself was late."""
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
        micro = [round(at * 1e6) for at in self.chunks]
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
        tree["chunks"] = tuple(at / 1e6 for at in accumulate(tree["chunks"]))
        return cls(**tree)


_MISSING = object()
_DEFAULTS: dict[str, Any] = {one.name: one.default for one in fields(Record) if one.name != "chunks"}


def read_records(lines: Iterable[str]) -> list[Record]:
    """All whole lines, in the order of intended starts; a last line that was cut off is left out."""
    return sorted((Record.from_json(line) for line in lines if line.endswith("\n")), key=lambda one: one.intended)
