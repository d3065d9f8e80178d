"""When requests are due in an open loop: seeded, the same on every machine, split over workers without overlap."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

from hybridserve.loadtest.curves import Constant, Curve

Process = Literal["poisson", "constant"]
_STEP_S = 0.01


def arrivals(curve: Curve, process: Process, seed: int, warm_up: float = 0.0) -> Iterator[float]:
    """Instants in seconds since the end of the warm-up (negative during it), until the curve ends.

    The rate is integrated; an arrival is due whenever the integral passes the next mark. Marks one apart give a
    constant rate, marks exponentially apart the Poisson process of that rate, also where it changes.
    """
    source = random.Random(seed)

    def gap() -> float:
        return source.expovariate(1.0) if process == "poisson" else 1.0

    # A constant rate begins with its first request, not one period late.
    mark = gap() if process == "poisson" else 0.0
    if isinstance(curve, Constant):
        while (at := mark / curve.level - warm_up) < curve.seconds:
            yield at
            mark += gap()
        return
    integral = 0.0
    for index in range(round((warm_up + curve.seconds) / _STEP_S)):
        start = index * _STEP_S - warm_up
        rate = curve.at(max(start, 0.0))
        after = integral + rate * _STEP_S
        while mark < after:
            yield start + (mark - integral) / rate
            mark += gap()
        integral = after


def share(times: Iterator[float], worker: int, workers: int) -> Iterator[tuple[int, float]]:
    """Those of one worker: every so-many-th, with their place in the whole schedule."""
    return ((index, at) for index, at in enumerate(times) if index % workers == worker)
