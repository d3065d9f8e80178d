"""Percentiles, and intervals that say how sure a number is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybridserve.quantiles import interpolated


@dataclass(frozen=True, slots=True)
class Distribution:
    """One measure over many requests, in its own unit."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution | None:
        """None where nothing was measured: an absent number is not 0."""
        if not values:
            return None
        ordered = sorted(values)
        p50, p90, p95, p99 = (interpolated(ordered, rank / 100) for rank in (50, 90, 95, 99))
        return cls(len(ordered), sum(ordered) / len(ordered), p50, p90, p95, p99, ordered[-1])

    def sure(self, rank: int) -> bool:
        """At least ten values lie beyond the percentile: fewer, and it is the luck of the draw."""
        return self.count * (100 - rank) / 100 >= 10


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate between two bounds."""

    value: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high


def wilson(good: int, total: int, z: float = 1.96) -> Interval:
    """Share `good / total` with its Wilson score interval (95 % by default).

    Raises:
        ValueError: total is 0.
    """
    if total < 1:
        raise ValueError("no trials")
    share = good / total
    spread = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / spread
    half = z / spread * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def bootstrap_ratio(
    ours: Sequence[float],
    theirs: Sequence[float],
    statistic: Callable[[Sequence[float]], float],
    seed: int = 1,
    rounds: int = 1000,
) -> Interval:
    """`statistic(ours) / statistic(theirs)` with its 95 % percentile bootstrap interval.

    Raises:
        ValueError: one side is empty, or its statistic is 0.
    """
    if not ours or not theirs or statistic(theirs) == 0:
        raise ValueError("nothing to compare")
    source = random.Random(seed)
    ratios = []
    for _ in range(rounds):
        below = statistic(source.choices(theirs, k=len(theirs)))
        if below:
            ratios.append(statistic(source.choices(ours, k=len(ours))) / below)
    ratios.sort()
    return Interval(statistic(ours) / statistic(theirs), interpolated(ratios, 0.025), interpolated(ratios, 0.975))
