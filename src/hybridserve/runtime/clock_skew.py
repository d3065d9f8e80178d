"""Detects that the wall clock was set back."""

from __future__ import annotations

# Clock corrections are slewed, or are fractions of a second; Ray Serve's periods are a second and more.
BACK_S = 5.0


class ClockJumpDetector:
    """Measures how far the wall clock jumped back between two calls. Pure: the caller passes both clocks.

    Ray 2.60 measures the time between two health checks by the wall clock, and orders its nodes' resource reports by
    it. After the clock was ahead and came back, a dead replica is not replaced until the clock has caught up.
    """

    def __init__(self) -> None:
        self._offset: float | None = None

    def back_s(self, wall: float, monotonic: float) -> float:
        """Seconds that the wall clock went back since the last call; negative where it jumped ahead.

        Args:
            wall: `time.time()`.
            monotonic: `time.monotonic()`.
        """
        offset = wall - monotonic
        before, self._offset = self._offset, offset
        return 0.0 if before is None else before - offset
