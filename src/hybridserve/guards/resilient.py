"""Around any guard: a deadline, retries while their budget lasts, and a breaker. It answers; it never raises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Literal

from hybridserve.guards.base import Guard, GuardError, GuardVerdict, Message, Stage

# The retry budget refills with checks, and never holds more than this: a burst of faults gets few retries.
_RETRY_BURST = 10.0


class ResilientGuard:
    """A guard whose every answer is a verdict; what goes wrong is a verdict ``error``.

    The breaker opens after `breaker_failures` errors in a row. For `breaker_reset_s` every check is an error at
    once; then one check goes through, and its outcome closes or opens the breaker again.
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
    ) -> None:
        self.guard = guard
        self.name = guard.name
        self._timeout = timeout_s
        self._retries = retries
        self._share = retry_budget
        self._budget = _RETRY_BURST if retry_budget else 0.0
        self._limit = breaker_failures
        self._reset = breaker_reset_s
        self._clock = clock
        self._failures = 0
        self._opened: float | None = None
        self._probing = False

    @property
    def breaker(self) -> Literal["closed", "open", "half_open"]:
        if self._opened is None:
            return "closed"
        return "open" if self._clock() - self._opened < self._reset else "half_open"

    @property
    def retry_after_s(self) -> float:
        """When it is worth asking again."""
        return 1.0 if self._opened is None else max(1.0, self._reset - (self._clock() - self._opened))

    async def check(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        """A verdict; `outcome` is ``error`` where the guard gave none."""
        start = self._clock()
        state = self.breaker
        if state == "open" or (state == "half_open" and self._probing):
            return GuardVerdict("error", self.name, detail="breaker open")
        self._probing = state == "half_open"
        self._budget = min(self._budget + self._share, _RETRY_BURST if self._share else 0.0)
        try:
            if self.guard.instant:
                verdict = await self.guard.check(messages, stage)
            else:
                async with asyncio.timeout(self._timeout):
                    verdict = await self._attempt(messages, stage)
        except TimeoutError:
            verdict = GuardVerdict("error", self.name, detail=f"no verdict within {self._timeout:g} s")
        except GuardError as fault:
            verdict = GuardVerdict("error", self.name, detail=fault.detail)
        except Exception as error:
            # A defect of an adapter must not open the door either.
            verdict = GuardVerdict("error", self.name, detail=f"defect: {type(error).__name__}")
        finally:
            self._probing = False
        self._count(verdict)
        seconds = self._clock() - start
        return GuardVerdict(verdict.outcome, verdict.guard, verdict.categories, verdict.detail, seconds)

    async def probe(self) -> str | None:
        """None when the guard lives, else why not."""
        try:
            async with asyncio.timeout(self._timeout):
                await self.guard.probe()
        except TimeoutError:
            return f"no answer within {self._timeout:g} s"
        except GuardError as fault:
            return fault.detail
        except Exception as error:
            return f"defect: {type(error).__name__}"
        return None

    async def close(self) -> None:
        await self.guard.close()

    async def _attempt(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        for attempt in range(self._retries + 1):
            try:
                return await self.guard.check(messages, stage)
            except GuardError as fault:
                if not fault.transient or attempt == self._retries or self._budget < 1:
                    raise
                self._budget -= 1
                await asyncio.sleep(0.05 * (attempt + 1))
        raise AssertionError("unreachable")

    def _count(self, verdict: GuardVerdict) -> None:
        if verdict.outcome != "error":
            self._failures, self._opened = 0, None
            return
        self._failures += 1
        if self._failures >= self._limit:
            self._opened = self._clock()
