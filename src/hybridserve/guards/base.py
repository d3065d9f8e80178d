"""What a guard is: one question, three answers, and an error that is never a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

Stage = Literal["input", "output"]


class Message(TypedDict):
    """One turn as plain text. `role` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """One answer of a guard.

    `categories` are the guard's own names of what it found. `detail` says why it is an error; it never holds
    text of the conversation.
    """

    outcome: Literal["allow", "block", "error"]
    guard: str
    categories: tuple[str, ...] = ()
    detail: str = ""
    seconds: float = 0.0

    @property
    def allowed(self) -> bool:
        return self.outcome == "allow"


class GuardError(Exception):
    """The guard gave no usable verdict. `transient` means that asking again may help."""

    def __init__(self, detail: str, *, transient: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.transient = transient


class Guard(Protocol):
    """One guard.

    `check` judges the whole of `messages`. In stage ``output`` the last message is the assistant's and is what is
    judged; a stream's window arrives the same way.
    """

    name: str
    instant: bool
    """It answers without waiting for anything, so that no deadline need be set."""

    async def check(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        """A verdict.

        Raises:
            GuardError: none could be had. `ResilientGuard` turns it into a verdict ``error``.
        """
        ...

    async def probe(self) -> None:
        """Cheap sign of life, for readiness. Raises GuardError."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...
