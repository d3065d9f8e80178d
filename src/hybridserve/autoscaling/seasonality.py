"""Seasonality: load that repeats, such as a shift that begins at nine or a job that runs every twenty minutes.

Arrivals are counted in bins of a quarter of a start-up time. A period is accepted when the changes of the rate over its
last cycle were those of the cycle before: once is an accident, twice is a pattern. Replicas can then be ready when a
burst begins, and stop when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, copysign, sqrt

BINS_PER_START_UP = 4
# Bins of the shortest period: what repeats faster is ordinary traffic.
SHORTEST = 8 * BINS_PER_START_UP
# A week of bins at a start-up of two minutes. More would keep Ray's controller busy.
MOST_BINS = 20_000
# A cycle explains the next one when less than this share of the changes remains unexplained; pure chance leaves twice
# the changes. An accepted period is rejected later than another one is accepted.
ACCEPTED, REJECTED = 0.5, 0.8
# Cycles that are averaged.
CYCLES = 3
# Bins over which the current level is compared with that of earlier cycles.
LEVEL_BINS = 8


@dataclass(frozen=True, slots=True)
class Ahead:
    """A seasonal forecast.

    Attributes:
        rate: the most requests per second from now until a replica requested now is ready.
        peak_over: there were more within the last start-up time, and they are known not to return.
    """

    rate: float
    peak_over: bool


@dataclass(frozen=True, slots=True)
class SeasonalModel:
    """Arrivals in bins, and the period found in them. Plain data.

    Attributes:
        bins: requests of each finished bin, oldest first.
        current: number of the open bin, and requests seen in it.
        changes: change of the count within a start-up time, by bin.
        residuals: by lag, from the shortest one: sum of squares of the last cycle's changes less those before it.
        constant: running sum of squared changes, by bin: the residual of a forecast that the rate stays.
        trend: the same, less the changes a start-up time before: the residual of a forecast that the trend continues.
        period: bins of a cycle; 0 while no period is accepted.
    """

    bins: tuple[float, ...] = ()
    current: tuple[int, float] = (0, 0.0)
    changes: tuple[float, ...] = ()
    residuals: tuple[float, ...] = ()
    constant: tuple[float, ...] = ()
    trend: tuple[float, ...] = ()
    period: int = 0

    def with_arrivals(self, now: float, count: float, start_up_s: float, longest_s: float) -> SeasonalModel:
        """Add the requests that arrived since the last call.

        Args:
            longest_s: bins older than this are forgotten; periods up to half of it can be found.
        """
        width = start_up_s / BINS_PER_START_UP
        longest = min(ceil(longest_s / width), MOST_BINS)
        number, total = self.current
        at = int(now / width)
        if at == number:
            return replace(self, current=(at, total + count))
        if not 0 < at - number <= SHORTEST:
            return SeasonalModel(current=(at, count))  # a gap as long as a cycle, another clock, or the first call
        season = self._with_bin(total, longest)
        each = count / (at - number)
        for _ in range(at - number - 1):  # bins without an observation
            season = season._with_bin(each, longest)
        return replace(season, current=(at, each))

    def _with_bin(self, count: float, longest: int) -> SeasonalModel:
        bins = (*self.bins, count)[-longest:]
        change = _change(bins)
        changes = (*self.changes, change)[-longest:]
        before = changes[-1 - 2 * BINS_PER_START_UP : -1 - BINS_PER_START_UP]
        constant = _summed(self.constant, change * change)[-longest:]
        trend = _summed(self.trend, (change - sum(before) / BINS_PER_START_UP) ** 2)[-longest:]
        # The last cycle of each lag has gained a bin and lost one.
        last = len(changes) - 1
        lags = range(SHORTEST, len(changes) // 2 + 1)
        cycles = zip(self.residuals, changes[last - SHORTEST :: -1], changes[last - 2 * SHORTEST :: -2], strict=False)
        residuals = [
            max(0.0, residual + (change - once) ** 2 - (once - twice) ** 2) for residual, once, twice in cycles
        ][: len(lags)]
        for lag in lags[len(residuals) :]:
            residuals.append(sum((changes[last - i] - changes[last - i - lag]) ** 2 for i in range(lag)))
        period = self._best_period(bins, residuals, (constant, trend))
        return replace(
            self,
            bins=bins,
            changes=changes,
            residuals=tuple(residuals),
            constant=constant,
            trend=trend,
            period=period,
        )

    def _best_period(
        self, bins: Sequence[float], residuals: Sequence[float], alternatives: Sequence[Sequence[float]]
    ) -> int:
        """The shortest lag that is about as good as the best one, if that is good; else 0."""
        # Counts vary by their mean, and both ends of a change are means of three.
        noise = max(sum(bins) / len(bins), 0.1) / 3
        scores: list[float] = []
        for lag, residual in enumerate(residuals, SHORTEST):
            change = min(sums[-1] - sums[-1 - lag] for sums in alternatives)
            chance = 2 * lag * noise
            scores.append(residual / change if change > 3 * chance else 2.0)
        if not scores:
            return 0
        best = min(scores)
        if self.period and scores[self.period - SHORTEST] <= min(REJECTED, 1.5 * best + 0.1):
            return self.period
        if best > ACCEPTED:
            return 0
        return next(lag for lag, score in enumerate(scores, SHORTEST) if score <= 1.2 * best + 0.02)

    def ahead(self, start_up_s: float) -> Ahead | None:
        """The forecast of the next start-up time; None without a period."""
        if not self.period:
            return None
        width = start_up_s / BINS_PER_START_UP
        last = len(self.bins) - 1
        recent = range(max(0, last - LEVEL_BINS + 1), last + 1)
        usual = sum(self._usual(index)[0] for index in recent)
        # The difference of a few bins is mostly chance: only what is beyond it shows the level of this cycle.
        more = sum(self.bins[index] for index in recent) - usual
        beyond = copysign(max(0.0, abs(more) - 2 * sqrt(usual + 1)), more)
        level = min(1.5, max(0.67, 1 + beyond / (usual + LEVEL_BINS)))
        coming = [self._usual(last + 1 + step) for step in range(BINS_PER_START_UP + 2)]
        mean = sum(usual for usual, _ in coming) / len(coming)
        most = max((usual + highest) / 2 for usual, highest in coming)
        chance = sqrt(max(mean, 1.0) / 3)
        # The current rate counts in any case.
        present = sum(self.bins[-2:]) / 2
        present -= 2 * sqrt(max(present, 1.0) / 2)
        before = max(self._usual(last - step)[0] for step in range(BINS_PER_START_UP))
        peak_over = before > max(usual for usual, _ in coming) + 3 * chance
        return Ahead(max(level * max(mean, most - chance), present) / width, peak_over)

    def _usual(self, index: int) -> tuple[float, float]:
        """Requests of a bin in earlier cycles, smoothed over three bins: its mean and its highest."""
        found = []
        for number in range(1, CYCLES + 1):
            at = index - number * self.period
            if at < 1:
                break
            near = self.bins[at - 1 : at + 2]
            found.append(sum(near) / len(near))
        return sum(found) / len(found), max(found)


def _summed(sums: tuple[float, ...], value: float) -> tuple[float, ...]:
    return (*sums, (sums[-1] if sums else 0.0) + value)


def _change(bins: Sequence[float]) -> float:
    """Change of the count within the last start-up time, each end smoothed over three bins."""
    if len(bins) < BINS_PER_START_UP + 3:
        return 0.0
    return (sum(bins[-3:]) - sum(bins[-3 - BINS_PER_START_UP : -BINS_PER_START_UP])) / 3
