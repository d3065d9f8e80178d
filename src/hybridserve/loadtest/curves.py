"""How much load, over time: users in a closed loop, requests/s in an open one. Seconds since the end of the warm-up."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

Level = Annotated[float, Field(ge=0)]


class _Curve(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Constant(_Curve):
    """One level."""

    shape: Literal["constant"] = "constant"
    level: PositiveFloat
    seconds: PositiveFloat

    def at(self, second: float) -> float:
        """The level at this second."""
        return self.level


class Steps(_Curve):
    """One level after another: what saturates, and where, is read off the steps."""

    shape: Literal["steps"]
    levels: tuple[PositiveFloat, ...] = Field(min_length=1)
    each: PositiveFloat

    @property
    def seconds(self) -> float:
        return self.each * len(self.levels)

    def at(self, second: float) -> float:
        """The level at this second."""
        return self.levels[min(max(0, int(second // self.each)), len(self.levels) - 1)]


class Ramp(_Curve):
    """A straight line."""

    shape: Literal["ramp"]
    low: Level
    high: PositiveFloat
    seconds: PositiveFloat

    def at(self, second: float) -> float:
        """The level at this second."""
        return self.low + (self.high - self.low) * min(max(second / self.seconds, 0.0), 1.0)


class Burst(_Curve):
    """`low`, and once every `every` seconds `high` for `length` seconds, beginning half a period in."""

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
        """The level at this second."""
        return self.high if 0 <= (second - self.every / 2) % self.every < self.length else self.low


class Diurnal(_Curve):
    """A day squeezed into `period` seconds: `low` at its start, `high` in the middle."""

    shape: Literal["diurnal"]
    low: Level
    high: PositiveFloat
    period: PositiveFloat
    seconds: PositiveFloat

    def at(self, second: float) -> float:
        """The level at this second."""
        return self.low + (self.high - self.low) * (1 - math.cos(2 * math.pi * second / self.period)) / 2


Curve = Annotated[Constant | Steps | Ramp | Burst | Diurnal, Field(discriminator="shape")]
