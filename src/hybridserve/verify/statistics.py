"""Statistics of a numeric check: how far log-probabilities may be from the reference.

Pure. The unit is one output position: the engine's log-probabilities of the tokens that were likeliest in the
reference, minus the reference's. A tie that falls the other way moves them by the engine's rounding, a wrong state by
more. Two tests are made for each condition (a way to send the same prompts: alone, together, from the cache, ...):

- *level*: the mean deviation of the probes. A probe is the unit, because the positions of one answer depend on each
  other. The limit is the one-sided prediction limit for a mean of n new values after N recorded ones, m + t s
  sqrt(1/n + 1/N) (Hahn & Meeker, Statistical Intervals, 1991, section 4.7), at least the floor of the data type.
- *worst*: the largest deviation at one position. The limit is the bound for the maximum of P values with sub-Gaussian
  tails, r sqrt(2 ln(2 P / a)), at least twice the largest recorded value and the floor.

The false-alarm rate `a` of the whole run is divided by the number of tests (Bonferroni).

Requests that are sent alone are computed in the same way each time: their noise is what was recorded in that condition.
Requests that are sent together are not. Which of them share a batch, and where a prompt is cut, follows their timing:
an answer is the recorded one to the last bit, or moved by the data type's rounding. A recording of a few passes often
sees only the first kind, and its zero is no bound for the next run. So these conditions share one noise, that of
the answers that moved, as if every answer of the next run moved. Their floors are higher: in 120 runs of a right
engine a position moved by at most 63 units, the level of a probe by 9 (docs/evidence/verify.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, stdev
from typing import Any, Literal

# Spacing of numbers near 1 in the engine's data type. Logits are rounded to it, relative to their size.
EPSILON: Mapping[str, float] = {"bfloat16": 2**-8, "float16": 2**-11, "float32": 2**-20}
# Floors of level and worst in units of that spacing. `same`: the release that made the reference, whose noise is
# recorded, so that the floor covers only noise too rare to be seen. `regrouped`: the same release, for requests that
# are sent together. `other`: another release, device or library, with its own rounding in every layer (measured in
# docs/evidence/verify.md).
FLOORS: Mapping[str, tuple[float, float]] = {"same": (2.0, 32.0), "regrouped": (8.0, 96.0), "other": (32.0, 256.0)}
Kind = Literal["same", "regrouped", "other"]
# Values are recorded with five digits: an answer that deviates by less has not moved.
_MOVED = 1e-4
# Fewer recorded levels have no spread that a limit could use.
_FEWEST = 8
# Levels are skewed: few probes carry most of the noise. Found by simulation, tests/unit/verify/test_statistics.py.
SKEW = 1.5
# How often a right engine may lose an answer that the reference had right, when near ties fall the other way.
LOST_ANSWER = 0.01

Verdict = Literal["PASS", "FAIL", "SKIP"]


@dataclass(frozen=True, slots=True)
class Position:
    """Deviation at one output position: mean and largest over the reference's likeliest tokens."""

    mean: float
    worst: float


@dataclass(slots=True)
class Deviation:
    """Deviations of one probe in one condition.

    Attributes:
        flips: positions at which the engine chose another token.
    """

    probe: str
    positions: list[Position] = field(default_factory=list)
    flips: int = 0

    @property
    def level(self) -> float:
        return fmean(position.mean for position in self.positions)


@dataclass(frozen=True, slots=True)
class Noise:
    """What a right engine deviates from itself: levels of the probes, and single positions."""

    samples: int = 0
    mean: float = 0.0
    sd: float = 0.0
    rms: float = 0.0
    peak: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """Verdict on one condition.

    Attributes:
        flips: positions at which the engine chose another token than the reference.
    """

    condition: str
    verdict: Verdict
    probes: int = 0
    positions: int = 0
    level: float = 0.0
    level_limit: float = 0.0
    worst: float = 0.0
    worst_limit: float = 0.0
    flips: int = 0
    note: str = ""


def position(reference: Sequence[tuple[int, float]], seen: Mapping[int, float]) -> Position:
    """Compare one position.

    Args:
        reference: likeliest tokens of the reference with their log-probabilities.
        seen: the engine's likeliest tokens. A reference token that is not among them is at most as likely as the last.
    """
    least = min(seen.values())
    gaps = [abs(seen[token] - logprob) if token in seen else max(0.0, logprob - least) for token, logprob in reference]
    return Position(fmean(gaps), max(gaps))


def noise(deviations: Sequence[Deviation]) -> Noise:
    """Noise from repeated runs on the engine that made the reference."""
    levels = [deviation.level for deviation in deviations]
    worst = [position.worst for deviation in deviations for position in deviation.positions]
    return Noise(
        samples=len(levels),
        mean=fmean(levels),
        sd=stdev(levels) if len(levels) > 1 else 0.0,
        rms=math.sqrt(fmean(value * value for value in worst)),
        peak=max(worst),
    )


def moved(deviations: Sequence[Deviation]) -> Noise:
    """Noise of the answers that were not the reference's to the last bit."""
    found = [one for one in deviations if any(position.worst > _MOVED for position in one.positions)]
    return noise(found) if found else Noise()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits for one run.

    Attributes:
        alpha: false-alarm rate of each test.
        epsilon: of the engine's data type.
    """

    alpha: float
    epsilon: float
    kind: Kind

    def level(self, recorded: Noise, probes: int) -> float:
        """Largest mean deviation of `probes` probes of a right engine."""
        floor = FLOORS[self.kind][0] * self.epsilon
        if recorded.samples < _FEWEST:
            return max(floor, 2 * recorded.mean)
        quantile = t_quantile(1 - self.alpha, recorded.samples - 1)
        spread = recorded.sd * math.sqrt(1 / probes + 1 / recorded.samples)
        return max(floor, recorded.mean + SKEW * quantile * spread)

    def worst(self, recorded: Noise, positions: int) -> float:
        """Largest deviation of a right engine at one of `positions` positions."""
        bound = recorded.rms * math.sqrt(2 * math.log(2 * positions / self.alpha))
        return max(bound, 2 * recorded.peak, FLOORS[self.kind][1] * self.epsilon)


def judge(condition: str, seen: Sequence[Deviation], recorded: Noise, tolerance: Tolerance) -> Result:
    """Verdict on one condition."""
    positions = sum(len(deviation.positions) for deviation in seen)
    level, worst = noise(seen).mean, noise(seen).peak
    limits = tolerance.level(recorded, len(seen)), tolerance.worst(recorded, positions)
    furthest = max(seen, key=lambda deviation: deviation.level)
    wrong = level > limits[0] or worst > limits[1]
    return Result(
        condition, "FAIL" if wrong else "PASS", len(seen), positions, level, limits[0], worst, limits[1],
        sum(deviation.flips for deviation in seen), f"furthest: {furthest.probe} {furthest.level:.3g}" if wrong else "",
    )  # fmt: skip


def judge_answers(known: int, lost: Sequence[str], alpha: float) -> Result:
    """Verdict on exact answers: how many of those that the reference had right are wrong now."""
    if not known:
        return Result("answers", "SKIP", note="the reference has no right answer")
    limit = next(count for count in range(known + 1) if _more_than(count, known, LOST_ANSWER) <= alpha)
    return Result(
        "answers", "FAIL" if len(lost) > limit else "PASS", known, known, len(lost) / known, limit / known,
        flips=len(lost), note=f"wrong now: {', '.join(lost)}" if lost else "",
    )  # fmt: skip


def _more_than(count: int, trials: int, chance: float) -> float:
    """Probability of more than `count` successes."""
    terms = (math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(count + 1, trials + 1))
    return sum(terms)


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t for five degrees of freedom or more (Abramowitz & Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def overall(results: Sequence[Result]) -> Verdict:
    """FAIL if any condition fails; PASS if at least one was checked."""
    verdicts = {result.verdict for result in results}
    return "FAIL" if "FAIL" in verdicts else "PASS" if "PASS" in verdicts else "SKIP"


def as_dict(result: Result) -> dict[str, Any]:
    """The result as plain data, rounded."""
    values = {name: getattr(result, name) for name in Result.__slots__}
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}
