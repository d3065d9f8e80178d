"""Percentiles and confidence intervals."""

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
        """None when nothing was measured: a missing number is not 0."""
        if not values:
            return None
        ordered = sorted(values)
        p50, p90, p95, p99 = (interpolated(ordered, fraction) for fraction in (0.5, 0.9, 0.95, 0.99))
        return cls(len(ordered), sum(ordered) / len(ordered), p50, p90, p95, p99, ordered[-1])

    def percentile(self, rank: int) -> float:
        """The percentile of rank 50, 90, 95 or 99."""
        return float(getattr(self, f"p{rank}"))

    def is_reliable(self, rank: int) -> bool:
        """Whether at least ten values are beyond the percentile."""
        return self.count * (100 - rank) / 100 >= 10


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its lower and upper bound."""

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
    first: Sequence[float],
    second: Sequence[float],
    statistic: Callable[[Sequence[float]], float],
    seed: int = 1,
    rounds: int = 1000,
) -> Interval:
    """`statistic(first) / statistic(second)` with its 95 % percentile bootstrap interval.

    Raises:
        ValueError: one side is empty, or the second statistic is 0.
    """
    if not first or not second or statistic(second) == 0:
        raise ValueError("nothing to compare")
    source = random.Random(seed)
    ratios = []
    for _ in range(rounds):
        divisor = statistic(source.choices(second, k=len(second)))
        if divisor:
            ratios.append(statistic(source.choices(first, k=len(first))) / divisor)
    ratios.sort()
    return Interval(statistic(first) / statistic(second), interpolated(ratios, 0.025), interpolated(ratios, 0.975))
