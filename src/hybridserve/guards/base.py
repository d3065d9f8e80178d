"""The interface of a guard: it allows or blocks a conversation, or raises an error, which never counts as allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

Stage = Literal["input", "output"]


class Message(TypedDict):
    """One turn as plain text. `role` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """The result of one check.

    Attributes:
        categories: the guard's own names of what it found.
        detail: the reason of an error, without text of the conversation.
        unjudgeable: an error about this conversation alone, such as one that is too long for the guard.
        seconds: duration of the check, retries included; set by `ResilientGuard`.
    """

    outcome: Literal["allow", "block", "error"]
    guard: str
    categories: tuple[str, ...] = ()
    detail: str = ""
    seconds: float = 0.0
    unjudgeable: bool = False

    @property
    def allowed(self) -> bool:
        return self.outcome == "allow"


class GuardError(Exception):
    """The guard returned no usable verdict.

    Attributes:
        transient: a retry may succeed.
        unjudgeable: the guard works and answered, but not with a verdict about this conversation.
    """

    def __init__(self, detail: str, *, transient: bool = False, unjudgeable: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.transient = transient
        self.unjudgeable = unjudgeable


class Guard(Protocol):
    """A guard.

    `check` judges all of `messages`. In stage ``output`` the last message is the assistant's and is the one to judge; a
    window of a stream is passed in the same way.
    """

    name: str
    is_local: bool
    """It computes the verdict in this process, without I/O, so it needs no deadline."""

    async def check(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        """The verdict.

        Raises:
            GuardError: there is none. `ResilientGuard` turns it into a verdict ``error``.
        """
        ...

    async def probe(self) -> None:
        """Check cheaply that the guard is reachable, for readiness. Raises GuardError."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


@runtime_checkable
class IdentifiedGuard(Protocol):
    """A guard whose endpoint tells what it serves."""

    async def identity(self) -> dict[str, Any]:
        """Fields by which a change is noticed. Raises GuardError."""
        ...
