"""Lifecycle of this process: running generations, drain, and the loss of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import Gauge


class Lifecycle:
    """Counts running generations and drains them.

    Attributes:
        draining: new generations are rejected.
        active: generations that run now.
        engine_lost: whether this process is about to exit because its engine is dead.
    """

    def __init__(self, draining: Gauge) -> None:
        self.draining = False
        self.active = 0
        self.engine_lost: Callable[[], bool] = lambda: False
        self._gauge = draining
        self._idle = asyncio.Event()

    def drain(self, on: bool = True) -> None:
        """Reject new generations, or accept them again; running ones continue."""
        self.draining = on
        self._gauge.set(float(on))

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no generation runs; False after the timeout."""
        if not self.active:
            return True
        self._idle.clear()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def enter(self) -> None:
        """A generation begins."""
        self.active += 1

    def leave(self) -> None:
        """A generation ends."""
        self.active -= 1
        if not self.active:
            self._idle.set()
