"""Notices an engine that is dead, or that has work and says nothing any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from hybridserve.engine.stats import EngineStatsLogger

PERIOD_S = 0.2

logger = logging.getLogger("hybridserve.engine")


class StallDetector:
    """How long an engine with work has said nothing. Pure: it is told of each look.

    Time counts only as far as this process itself was running: one that was stopped, or starved of the processor, has
    not read yet what its engine said meanwhile.
    """

    def __init__(self) -> None:
        self._steps = -1
        self.seconds = 0.0

    def look(self, steps: int, busy: bool, elapsed_s: float) -> float:
        """Seconds of silence.

        Args:
            steps: how often the engine has spoken so far.
            busy: whether it has work.
            elapsed_s: since the last look.
        """
        if steps != self._steps or not busy:
            self._steps, self.seconds = steps, 0.0
        else:
            self.seconds += min(elapsed_s, 2 * PERIOD_S)
        return self.seconds


async def wait_until_unhealthy(errored: Callable[[], bool], signals: EngineStatsLogger, stall_timeout_s: float) -> None:
    """Return when the engine is dead, or silent for `stall_timeout_s`.

    Serve's health check takes three periods to notice a dead engine, and until then the replica answers errors fast, so
    the router prefers it: 511 of 828 requests failed in one measured run, 6 with this watchdog. A stalled engine it
    never notices.
    """
    silence, loop = StallDetector(), asyncio.get_running_loop()
    looked = loop.time()
    while not errored():
        await asyncio.sleep(PERIOD_S)
        now = loop.time()
        quiet = silence.look(signals.steps, signals.busy, now - looked)
        looked = now
        if quiet >= stall_timeout_s:
            logger.error("engine_stalled", extra={"seconds": round(quiet)})
            return
    logger.error("engine_dead")
