"""Notices that the time of day went back."""

from __future__ import annotations

# Corrections are slewed, or are parts of a second; what Ray Serve waits for is a second and more.
BACK_S = 5.0


class ClockJumpDetector:
    """How far the time of day jumped back between two looks. Pure: it is told both clocks.

    Ray 2.60 counts the time between two health checks by the time of day, and orders by it what its nodes say of free
    CPUs. Once that was ahead and came back, a replica that dies is not replaced until it is as late again.
    """

    def __init__(self) -> None:
        self._ahead: float | None = None

    def back_s(self, wall: float, monotonic: float) -> float:
        """Seconds that it went back since the last look; negative where it went on.

        Args:
            wall: `time.time()`.
            monotonic: `time.monotonic()`.
        """
        ahead = wall - monotonic
        before, self._ahead = self._ahead, ahead
        return 0.0 if before is None else before - ahead
