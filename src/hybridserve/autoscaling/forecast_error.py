"""By how much demand has differed from its forecasts: chance, rates that change, and bursts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from hybridserve.autoscaling.spec import ScalingSpec

# Shorter windows count too few arrivals, longer ones too old ones.
WINDOW_S = (5.0, 120.0)
# Forecasts a start-up time apart are independent of each other; those in between show when an error began.
SAMPLES_PER_START_UP = 12
# Bursts beyond this many standard deviations of ordinary errors (1 in 1000) are remembered apart from them.
BURST_SIGMAS = 3.0
# Until it is measured, the rate a start-up time ahead is taken to be uncertain by this share, which counts as much as
# so many start-up times of measurements.
UNCERTAIN, UNCERTAIN_START_UPS = 0.1, 3
# A rate that varies by more is not one rate: those are bursts, remembered with their height.
MOST_UNCERTAIN = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests per second at one moment, and the forecast made then for a start-up time later.

    Attributes:
        prompt: mean prompt tokens of the requests that had finished lately.
        expected_prompt: the forecast of it.

    Stored as rates: how long a request occupies a slot depends on how full replicas are, so an hour of slots counted
    while they were full is no forecast for an hour in which they are not.
    """

    at: float
    rate: float
    forecast: float
    prompt: float
    expected_prompt: float


@dataclass(frozen=True, slots=True)
class ForecastError:
    """The remembered errors of forecasts.

    Attributes:
        rate: relative standard deviation of the rate of requests, beyond that of Poisson arrivals.
        work: the same of prompt tokens per second.
        bursts: by how much demand exceeded forecasts at the quantile of the goal, beyond that, in roots of them.
        peak: the highest demand that lasted for half a start-up time.
    """

    rate: float = UNCERTAIN
    work: float = UNCERTAIN
    bursts: float = 0.0
    peak: float = 0.0

    def slots(self, forecast: float) -> float:
        """Slots to reserve on top of a forecast. During a burst nothing is reserved for another one on top."""
        return min(self.bursts * sqrt(max(forecast, 1.0)), max(0.0, self.peak - forecast))


def forecast_error(samples: tuple[Sample, ...], service_s: float, spec: ScalingSpec) -> ForecastError:
    """By how much demand has differed from forecasts that were made a start-up time before.

    Arrivals of a constant rate leave errors of ``sqrt(rate * window)`` requests, which `spare_servers` covers. Real
    rates change within seconds and minutes and leave more. A variance of ``r + (e * r) ** 2`` for a mean of r is that
    of Poisson arrivals whose rate varies by the share e (a doubly stochastic process); e is what is measured here.

    Errors beyond three standard deviations of that are bursts, and while they are remembered capacity is reserved for
    the next one. The worst is left out with all errors around it: once is an accident, twice is a pattern.
    """
    lag = SAMPLES_PER_START_UP
    pairs = list(zip(samples, samples[lag:], strict=False))
    if len(pairs) <= 2 * lag:
        return ForecastError()
    window = max(service_s, WINDOW_S[0])
    rates, works = [], []
    for before, after in pairs:
        # In standard deviations of Poisson arrivals.
        expected = max(before.forecast, 0.1 / window)
        sigmas = sqrt(window / expected)
        rates.append((after.rate - expected) * sigmas)
        longer = after.prompt / before.expected_prompt if before.expected_prompt else 1.0
        works.append((after.rate * longer - expected) * sigmas)
    count = mean([before.forecast for before, _ in pairs]) * window
    rate = _beyond_chance(rates, count)
    errors = [
        (after.at, (after.rate - before.forecast) * service_s / sqrt(max(before.forecast * service_s, 1.0)))
        for before, after in pairs
    ]
    worst = max(errors, key=lambda error: error[1])[0]
    left = sorted(error for at, error in errors if abs(at - worst) > 2 * spec.start_up_s)
    bursts = left[min(len(left) - 1, int(spec.attainment * len(left)))] if left else 0.0
    demand = [sample.rate * service_s for sample in samples]
    return ForecastError(
        rate,
        _beyond_chance(works, count),
        max(0.0, bursts - BURST_SIGMAS * sqrt(1 + rate * rate * count)),
        max(mean(demand[index : index + lag // 2]) for index in range(len(demand) - lag // 2 + 1)),
    )


def _beyond_chance(errors: Sequence[float], count: float) -> float:
    """Relative standard deviation of a rate that leaves these errors, in standard deviations of `count` arrivals.

    From the median and the upper sixth, which are a standard deviation apart: a burst in every twenty minutes does not
    count, and neither does growth that every forecast misses.
    """
    ordered = sorted(errors)
    middle = max(0.0, ordered[len(ordered) // 2])
    sigma = max(0.0, ordered[int(0.84 * len(ordered))] - middle)
    square = max(0.0, sigma * sigma - 1) / max(count, 1.0)
    start_ups = len(errors) / SAMPLES_PER_START_UP
    known = square * start_ups + UNCERTAIN**2 * UNCERTAIN_START_UPS
    return min(MOST_UNCERTAIN, sqrt(known / (start_ups + UNCERTAIN_START_UPS)))


def mean(values: Sequence[float]) -> float:
    """The mean; 0 of nothing."""
    return sum(values) / len(values) if values else 0.0
