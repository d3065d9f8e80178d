"""Wrapper for any guard: a deadline, retries within a budget, and a circuit breaker. It never raises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Literal

from hybridserve.guards.base import Guard, GuardError, GuardVerdict, IdentifiedGuard, Message, Stage

# The retry budget grows with every check up to this limit, so that a burst of failures causes few retries.
_RETRY_BURST = 10.0
# Short conversations of our own, which every guard that works can judge.
_HELLO: dict[Stage, tuple[Message, ...]] = {
    "input": ({"role": "user", "content": "Hello"},),
    "output": ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}),
}


class ResilientGuard:
    """A guard that always returns a verdict: every failure becomes a verdict ``error``.

    After `breaker_failures` errors in a row the guard is asked about a short prompt of our own, and only if that fails
    too, the breaker opens: a client whose prompts make the guard slow or fail could else take it away from all. For
    `breaker_reset_s` every check is an error without a call; then the short prompt closes the breaker or opens it
    again. An error about one conversation, such as one that is too long, does not count if the guard judges the short
    prompt at that time; if it does not, the error is an outage like any other.

    Args:
        clock: the current time in seconds.
        sleep: waits for a number of seconds before a retry.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        timeout_s: float = 5.0,
        retries: int = 1,
        retry_budget: float = 0.1,
        breaker_failures: int = 5,
        breaker_reset_s: float = 10.0,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.guard = guard
        self.name = guard.name
        self._timeout_s = timeout_s
        self._retries = retries
        self._budget_per_check = retry_budget
        self._budget = _RETRY_BURST if retry_budget else 0.0
        self._breaker_failures = breaker_failures
        self._breaker_reset_s = breaker_reset_s
        self._clock = clock
        self._sleep = sleep
        self._failures = 0
        self._opened: float | None = None
        self._failed_stage: Stage = "input"
        self._confirming = False
        self._confirmation: asyncio.Task[bool] | None = None

    @property
    def breaker(self) -> Literal["closed", "open", "half_open"]:
        if self._opened is None:
            return "closed"
        return "open" if self._clock() - self._opened < self._breaker_reset_s else "half_open"

    @property
    def retry_after_s(self) -> float:
        """Seconds after which a client should retry."""
        return 1.0 if self._opened is None else max(1.0, self._breaker_reset_s - (self._clock() - self._opened))

    async def check(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        """The verdict; its outcome is ``error`` where the guard returned none."""
        start = self._clock()
        state = self.breaker
        if state != "closed" and (state == "open" or self._confirming or not await self._confirm()):
            return GuardVerdict("error", self.name, detail="breaker open")
        self._budget = min(self._budget + self._budget_per_check, _RETRY_BURST if self._budget_per_check else 0.0)
        try:
            if self.guard.is_local:
                verdict = await self.guard.check(messages, stage)
            else:
                async with asyncio.timeout(self._timeout_s):
                    verdict = await self._attempt(messages, stage)
        except Exception as error:  # A bug in an adapter must not let a request pass either.
            unjudgeable = isinstance(error, GuardError) and error.unjudgeable and await self._works(stage)
            verdict = GuardVerdict("error", self.name, detail=self._describe(error), unjudgeable=unjudgeable)
        self._count(verdict, stage)
        seconds = self._clock() - start  # not dataclasses.replace, which takes 3 us
        return GuardVerdict(
            verdict.outcome, verdict.guard, verdict.categories, verdict.detail, seconds, verdict.unjudgeable
        )

    async def probe(self) -> str | None:
        """None when the guard is reachable, else the reason."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.guard.probe()
        except Exception as error:
            return self._describe(error)
        return None

    async def identity(self) -> dict[str, Any] | None:
        """What the guard's endpoint serves; None if it cannot tell, or cannot be reached."""
        if not isinstance(self.guard, IdentifiedGuard):
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self.guard.identity()
        except (GuardError, TimeoutError):
            return None

    async def close(self) -> None:
        if self._confirmation is not None:
            self._confirmation.cancel()
        await self.guard.close()

    async def _attempt(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        for attempt in range(self._retries):
            try:
                return await self.guard.check(messages, stage)
            except GuardError as error:
                if not error.transient or self._budget < 1:
                    raise
                self._budget -= 1
                await self._sleep(0.05 * (attempt + 1))
        return await self.guard.check(messages, stage)

    def _describe(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        return error.detail if isinstance(error, GuardError) else f"unexpected {type(error).__name__}"

    def _count(self, verdict: GuardVerdict, stage: Stage) -> None:
        if verdict.unjudgeable:
            return
        if verdict.outcome != "error":
            self._failures, self._opened = 0, None
            return
        self._failures += 1
        self._failed_stage = stage
        if self._failures >= self._breaker_failures and not self._confirming:
            self._confirming = True
            self._confirmation = asyncio.ensure_future(self._confirm())  # the client has waited for its own deadline

    async def _works(self, stage: Stage) -> bool:
        """Whether the guard judges a short prompt."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.guard.check(_HELLO[stage], stage)
        except Exception:  # whatever it is, there is no verdict
            return False
        return True

    async def _confirm(self) -> bool:
        """Whether the guard works; closes or opens the breaker."""
        self._confirming = True
        try:
            self._opened = None if await self._works(self._failed_stage) else self._clock()
        finally:
            self._failures, self._confirming = 0, False
        return self._opened is None
