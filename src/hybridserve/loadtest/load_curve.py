"""Load over time (users in a closed loop, requests/s in an open loop) and the arrivals of an open loop.

Seconds count from the end of the warm-up.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

Level = Annotated[float, Field(ge=0)]
Process = Literal["poisson", "constant"]
_STEP_S = 0.01


class _Curve(BaseModel):
    """A shape of load. `at(second)` is the level at that second."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Constant(_Curve):
    """One level."""

    shape: Literal["constant"] = "constant"
    level: PositiveFloat
    seconds: PositiveFloat

    def at(self, second: float) -> float:
        return self.level


class Steps(_Curve):
    """One level after another, to find where throughput saturates."""

    shape: Literal["steps"]
    levels: tuple[PositiveFloat, ...] = Field(min_length=1)
    each: PositiveFloat

    @property
    def seconds(self) -> float:
        return self.each * len(self.levels)

    def at(self, second: float) -> float:
        return self.levels[min(max(0, int(second // self.each)), len(self.levels) - 1)]


class Ramp(_Curve):
    """A straight line."""

    shape: Literal["ramp"]
    low: Level
    high: PositiveFloat
    seconds: PositiveFloat

    def at(self, second: float) -> float:
        return self.low + (self.high - self.low) * min(max(second / self.seconds, 0.0), 1.0)


class Burst(_Curve):
    """`low`, and once in `every` seconds `high` for `length` seconds, from the middle of the period on."""

    shape: Literal["burst"]
    low: Level
    high: PositiveFloat
    every: PositiveFloat
    length: PositiveFloat
    seconds: PositiveFloat

    @model_validator(mode="after")
    def _fits(self) -> Burst:
        if self.length > self.every:
            raise ValueError("length is more than every")
        return self

    def at(self, second: float) -> float:
        return self.high if 0 <= (second - self.every / 2) % self.every < self.length else self.low


class Diurnal(_Curve):
    """A day compressed into `period` seconds: `low` at its start, `high` in the middle."""

    shape: Literal["diurnal"]
    low: Level
    high: PositiveFloat
    period: PositiveFloat
    seconds: PositiveFloat

    def at(self, second: float) -> float:
        return self.low + (self.high - self.low) * (1 - math.cos(2 * math.pi * second / self.period)) / 2


Curve = Annotated[Constant | Steps | Ramp | Burst | Diurnal, Field(discriminator="shape")]


def arrivals(curve: Curve, process: Process, seed: int, warm_up: float = 0.0) -> Iterator[float]:
    """Times at which requests are due (negative during the warm-up), the same for a seed on every machine.

    The rate is integrated; a request is due when the integral passes the next mark. Marks one apart give a constant
    rate, exponentially distributed marks a Poisson process, also where the rate changes.
    """
    source = random.Random(seed)

    def gap() -> float:
        return source.expovariate(1.0) if process == "poisson" else 1.0

    # A constant rate begins with its first request, not one period later.
    mark = gap() if process == "poisson" else 0.0
    if isinstance(curve, Constant):
        while (due := mark / curve.level - warm_up) < curve.seconds:
            yield due
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
    """The arrivals of one worker, each with its index in the whole schedule."""
    return ((index, due) for index, due in enumerate(times) if index % workers == worker)
