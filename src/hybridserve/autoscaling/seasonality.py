"""What comes back by the clock: the shift that begins at nine, the job that runs every twenty minutes.

Arrivals are counted in bins of a quarter of a start-up time. A period is believed when the changes of the rate over its
last round were those of the round before: once is an accident, twice is a pattern. What it is then good for is the one
thing that nothing else can give: replicas that are ready when a burst begins, and gone when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, copysign, sqrt

BINS_PER_START_UP = 4
# What repeats faster than this is no calendar but traffic.
SHORTEST = 8 * BINS_PER_START_UP
# A week of bins at a start-up of two minutes. More would keep Ray's controller busy.
MOST_BINS = 20_000
# A round explains the next one when what it leaves of the changes is less than this share of them; pure chance leaves
# twice of them. A period that is believed is given up later than another one is taken.
BELIEVED, GIVEN_UP = 0.5, 0.8
# Rounds that are averaged.
ROUNDS = 3
# Bins over which the height of today is compared with that of earlier rounds.
LEVEL_BINS = 8


@dataclass(frozen=True, slots=True)
class Ahead:
    """A forecast by the clock.

    Attributes:
        rate: the most requests a second from now until a replica that is asked for now is ready.
        over: there were more within the last start-up time, and it is known that they will not be again.
    """

    rate: float
    over: bool


@dataclass(frozen=True, slots=True)
class SeasonalModel:
    """Arrivals by bins, and the period that was found in it. Plain data.

    Attributes:
        bins: requests of each finished bin, oldest first.
        current: number of the open bin, and requests seen in it.
        changes: how far the count had moved within a start-up time, by bin.
        left: by lag, from the shortest one: what is left of the last round's changes, squared, less the round before.
        moved: running sum of squared changes, by bin: what is left when the rate is forecast to stay.
        bent: the same, less the changes a start-up time before: what is left when the trend is forecast to go on.
        period: bins of a round; 0 while none is believed.
    """

    bins: tuple[float, ...] = ()
    current: tuple[int, float] = (0, 0.0)
    changes: tuple[float, ...] = ()
    left: tuple[float, ...] = ()
    moved: tuple[float, ...] = ()
    bent: tuple[float, ...] = ()
    period: int = 0

    def with_arrivals(self, now: float, count: float, start_up_s: float, longest_s: float) -> SeasonalModel:
        """Take in the requests that arrived since the last look.

        Args:
            longest_s: bins older than this are forgotten; periods up to half of it can be found.
        """
        width = start_up_s / BINS_PER_START_UP
        number, total = self.current
        at = int(now / width)
        if at == number:
            return replace(self, current=(at, total + count))
        if not 0 < at - number <= SHORTEST:
            return SeasonalModel(current=(at, count))  # a hole as long as a round, another clock, or the first look
        season, longest = self._with_bin(total, ceil(longest_s / width)), ceil(longest_s / width)
        each = count / (at - number)
        for _ in range(at - number - 1):  # bins that nobody looked at
            season = season._with_bin(each, longest)
        return replace(season, current=(at, each))

    def _with_bin(self, count: float, longest: int) -> SeasonalModel:
        longest = min(longest, MOST_BINS)
        bins = (*self.bins, count)[-longest:]
        here = _change(bins)
        changes = (*self.changes, here)[-longest:]
        trend = changes[-1 - 2 * BINS_PER_START_UP : -1 - BINS_PER_START_UP]
        moved = _summed(self.moved, here * here)[-longest:]
        bent = _summed(self.bent, (here - sum(trend) / BINS_PER_START_UP) ** 2)[-longest:]
        # The last round of each lag has won a bin and lost one.
        last = len(changes) - 1
        lags = range(SHORTEST, len(changes) // 2 + 1)
        rounds = zip(self.left, changes[last - SHORTEST :: -1], changes[last - 2 * SHORTEST :: -2], strict=False)
        left = [max(0.0, rest + (here - one) ** 2 - (one - two) ** 2) for rest, one, two in rounds][: len(lags)]
        for lag in lags[len(left) :]:
            left.append(sum((changes[last - i] - changes[last - i - lag]) ** 2 for i in range(lag)))
        period = self._believed(bins, left, (moved, bent))
        return replace(self, bins=bins, changes=changes, left=tuple(left), moved=moved, bent=bent, period=period)

    def _believed(self, bins: Sequence[float], left: Sequence[float], others: Sequence[Sequence[float]]) -> int:
        """The shortest lag that is about as good as the best one, if that is good."""
        # Counts vary by their mean, and both ends of a change are means of three.
        noise = max(sum(bins) / len(bins), 0.1) / 3
        scores: list[float] = []
        for known, rest in enumerate(left):
            lag = SHORTEST + known
            change = min(sums[-1] - sums[-1 - lag] for sums in others)
            chance = 2 * lag * noise
            scores.append(rest / change if change > 3 * chance else 2.0)
        if not scores:
            return 0
        best = min(scores)
        if self.period and scores[self.period - SHORTEST] <= min(GIVEN_UP, 1.5 * best + 0.1):
            return self.period
        if best > BELIEVED:
            return 0
        return SHORTEST + next(known for known, score in enumerate(scores) if score <= 1.2 * best + 0.02)

    def ahead(self, start_up_s: float) -> Ahead | None:
        """What the clock says of the next start-up time; None without a period."""
        if not self.period:
            return None
        width = start_up_s / BINS_PER_START_UP
        last = len(self.bins) - 1
        recent = range(max(0, last - LEVEL_BINS + 1), last + 1)
        usual = sum(self._usual(index)[0] for index in recent)
        # A quiet quarter of an hour is mostly chance: only what is beyond it says how high this round is.
        more = sum(self.bins[index] for index in recent) - usual
        beyond = copysign(max(0.0, abs(more) - 2 * sqrt(usual + 1)), more)
        level = min(1.5, max(0.67, 1 + beyond / (usual + LEVEL_BINS)))
        coming = [self._usual(last + 1 + step) for step in range(BINS_PER_START_UP + 2)]
        mean = sum(usual for usual, _ in coming) / len(coming)
        most = max((usual + highest) / 2 for usual, highest in coming)
        chance = sqrt(max(mean, 1.0) / 3)
        # What is there already is due whatever the clock says.
        present = sum(self.bins[-2:]) / 2
        present -= 2 * sqrt(max(present, 1.0) / 2)
        before = max(self._usual(last - step)[0] for step in range(BINS_PER_START_UP))
        over = before > max(usual for usual, _ in coming) + 3 * chance
        return Ahead(max(level * max(mean, most - chance), present) / width, over)

    def _usual(self, index: int) -> tuple[float, float]:
        """Requests of a bin in earlier rounds, smoothed over three bins: its mean and its highest."""
        found = []
        for number in range(1, ROUNDS + 1):
            at = index - number * self.period
            if at < 1:
                break
            near = self.bins[at - 1 : at + 2]
            found.append(sum(near) / len(near))
        return sum(found) / len(found), max(found)


def _summed(sums: tuple[float, ...], value: float) -> tuple[float, ...]:
    return (*sums, (sums[-1] if sums else 0.0) + value)


def _change(bins: Sequence[float]) -> float:
    """How far the count moved within the last start-up time, each end smoothed over three bins."""
    if len(bins) < BINS_PER_START_UP + 3:
        return 0.0
    return (sum(bins[-3:]) - sum(bins[-3 - BINS_PER_START_UP : -BINS_PER_START_UP])) / 3
