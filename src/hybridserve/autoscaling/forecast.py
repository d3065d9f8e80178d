"""From counters of replicas to demand: the slots needed now, and those needed when a new replica is ready.

Demand is the number of requests that arrived within the last service time: what would run if there were no queue.
Unlike the number of running requests it does not saturate when the slots are full, and unlike the length of the queue
it rises before a queue forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from operator import add, sub
from typing import NamedTuple

from hybridserve.autoscaling.forecast_error import (
    SAMPLES_PER_START_UP,
    WINDOW_S,
    ForecastError,
    Sample,
    forecast_error,
    mean,
)
from hybridserve.autoscaling.replica_metrics import FleetMetrics, ReplicaMetrics
from hybridserve.autoscaling.seasonality import BINS_PER_START_UP, SeasonalModel
from hybridserve.autoscaling.spare import SpareFactor
from hybridserve.autoscaling.spec import ScalingSpec

# Service time is the mean of about this many finished requests: enough for a mean, few enough to follow the traffic.
REQUESTS_IN_A_MEAN = 200.0
# Fewer than this are no mean: the first request of an engine took 21 s on a busy machine, the next ones 0.3 s; when
# the first one weighed as much as 200, a second replica was started for it.
REQUESTS_FOR_A_MEAN = 20
# The time per token changes with the traffic's lengths, within tens of minutes.
LATENCY_MEMORY_S = 1800.0
# Windows, in start-up times, for slow growth, and the standard deviations of chance beyond which it counts.
SLOW_START_UPS = (2, 4)
SLOW_SIGMAS = 1.0
# The demand that is planned for is exceeded at one moment of ten: normal quantile.
CONFIDENCE_SIGMAS = 1.28


class Counters(NamedTuple):
    """Counters of one replica."""

    arrived: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    prompt_squares: float = 0.0
    generated: int = 0
    slot_seconds: float = 0.0
    late: int = 0

    @classmethod
    def of(cls, replica: ReplicaMetrics) -> Counters:
        """The counters among the metrics of a replica."""
        return cls(*(getattr(replica, name) for name in cls._fields))

    def since(self, last: Counters) -> Counters:
        """The difference. An engine whose counters went down has restarted: then from zero."""
        if self.arrived < last.arrived or self.finished < last.finished:
            return self
        return Counters(*map(sub, self, last))

    def plus(self, other: Counters) -> Counters:
        """The sum."""
        return Counters(*map(add, self, other))


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Seconds per output token as a linear function of the sequences that share a replica: a running regression.

    Weighted sums over the output tokens, with old ones fading out. Linear, because a step reads the weights once and
    the state and cache of each sequence once more.
    """

    weight: float = 0.0
    running: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    product: float = 0.0

    def with_point(self, weight: float, running: float, seconds: float, age_s: float) -> LatencyModel:
        """The model with one more point, `age_s` after the last one."""
        keep = max(0.0, 1 - age_s / LATENCY_MEMORY_S)
        return LatencyModel(
            self.weight * keep + weight,
            self.running * keep + weight * running,
            self.seconds * keep + weight * seconds,
            self.squares * keep + weight * running * running,
            self.product * keep + weight * running * seconds,
        )

    def slowdown(self, at: float, measured: float) -> float:
        """Time per token with `at` sequences per replica, relative to `measured` sequences; between 1 and 2."""
        if not self.weight or not self.seconds:
            return 1.0
        running, seconds = self.running / self.weight, self.seconds / self.weight
        spread = self.squares / self.weight - running * running
        if spread < 0.25:
            return 1.0  # replicas have always been equally full: a line through one point has no slope
        slope = max(0.0, (self.product / self.weight - running * seconds) / spread)
        # The line is extrapolated, but never below half of the mean.
        before = max(seconds / 2, seconds + slope * (measured - running))
        return min(2.0, max(1.0, (seconds + slope * (at - running)) / before))


@dataclass(frozen=True, slots=True)
class Memory:
    """What the policy remembers. Everything in it is plain data.

    Attributes:
        replicas: counters by replica.
        arrived: requests since the first decision, at each of the last moments: (time, count).
        finished: requests that the means below are over, at most `REQUESTS_IN_A_MEAN`.
        holding_s: mean time that they occupied a slot.
        fullness: sequences that ran on a replica meanwhile.
        prompt, prompt_square: mean prompt tokens of a request, and mean of their square.
        output: mean output tokens of a request.
        latency: time per token by sequences per replica.
        blocks: mean blocks of a running sequence.
        samples: rates and forecasts, some in each start-up time, as far back as the spec remembers.
        error: the forecast errors that follow from them.
        season: arrivals by time.
        spare: by what the calculated spare capacity is multiplied.
    """

    replicas: Mapping[str, Counters] = field(default_factory=dict)
    arrived: tuple[tuple[float, float], ...] = ()
    finished: float = 0.0
    holding_s: float = 0.0
    fullness: float = 0.0
    prompt: float = 0.0
    prompt_square: float = 0.0
    output: float = 0.0
    latency: LatencyModel = field(default_factory=LatencyModel)
    blocks: float = 0.0
    samples: tuple[Sample, ...] = ()
    error: ForecastError = field(default_factory=ForecastError)
    season: SeasonalModel = field(default_factory=SeasonalModel)
    spare: SpareFactor = field(default_factory=SpareFactor)

    @property
    def service_s(self) -> float:
        """Mean time that a request occupies a slot; 0 while too few have finished."""
        return self.holding_s if self.finished >= REQUESTS_FOR_A_MEAN else 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Slots that are needed.

    Attributes:
        now: requests that arrived within the last service time.
        forecast: the same when a replica requested now is ready.
        burst_reserve: by how much forecasts have lately been too low in bursts.
        rate_error: relative standard deviation of the forecast, beyond that of Poisson arrivals.
        work_error: the same of prompt tokens per second.
        prompt: mean prompt tokens of a request over as long as the forecast.
        period_s: of the season that the forecast follows; 0 if it follows the trend.
        peak_over: by the season, a peak has just ended.
    """

    now: float
    forecast: float
    burst_reserve: float
    rate_error: float
    work_error: float
    prompt: float
    period_s: float = 0.0
    peak_over: bool = False


def update(memory: Memory, fleet: FleetMetrics, spec: ScalingSpec) -> tuple[Memory, Demand]:
    """Add one observation. Returns the new memory and the demand."""
    memory, counted = _count(memory, fleet)
    new = float(counted.arrived)
    spare = memory.spare.with_finished(fleet.now, counted.finished, counted.late, spec.start_up_s, 1 - spec.attainment)
    memory = replace(memory, spare=spare)
    before = memory.arrived[-1][1] if memory.arrived else 0.0
    memory = replace(memory, arrived=_recent(memory.arrived, fleet.now, before + new))
    service_s = memory.service_s
    if service_s:
        now = _arrivals(memory, fleet.now) + fleet.queued
    else:  # too few have finished: all that is known is which requests are present
        now = float(fleet.queued + sum(replica.running + replica.waiting for replica in fleet.replicas))
    season = memory.season.with_arrivals(fleet.now, new, spec.start_up_s, spec.calendar_s)
    if bool(season.period) != bool(memory.season.period):
        # Errors of the other kind of forecast do not apply to this kind.
        memory = replace(memory, samples=(), error=ForecastError())
    memory = replace(memory, season=season)
    ahead = season.ahead(spec.start_up_s) if service_s else None
    if ahead is not None:
        forecast = ahead.rate * service_s
    else:
        forecast = max(0.0, _forecast(memory.samples, now, fleet.now, service_s, spec.start_up_s))
        if memory.error.bursts:
            # After known bursts a steep rise is another one, and ends at the same height: without this, three times
            # the rate for three minutes was answered with capacity for five times.
            forecast = min(forecast, max(memory.error.peak, now))
    prompt = mean([s.prompt for s in memory.samples if s.at > fleet.now - 2 * spec.start_up_s]) or memory.prompt
    if service_s:
        sample = Sample(fleet.now, now / service_s, forecast / service_s, memory.prompt, prompt)
        samples = _sampled(memory.samples, sample, spec)
        if samples is not memory.samples:
            memory = replace(memory, samples=samples, error=forecast_error(samples, service_s, spec))
    error = memory.error
    return memory, Demand(
        now=now,
        forecast=forecast,
        burst_reserve=error.slots(forecast),
        rate_error=error.rate,
        work_error=error.work,
        prompt=prompt,
        period_s=season.period * spec.start_up_s / BINS_PER_START_UP,
        peak_over=ahead is not None and ahead.peak_over,
    )


def _count(memory: Memory, fleet: FleetMetrics) -> tuple[Memory, Counters]:
    """Add the differences of the counters; a replica seen for the first time counts from zero."""
    first_look = not memory.arrived
    new = Counters()
    blocks, running = 0, 0
    counters = dict(memory.replicas)
    for replica in fleet.replicas:
        now = Counters.of(replica)
        new = new.plus(now.since(counters.get(replica.replica, now if first_look else Counters())))
        counters[replica.replica] = now
        blocks += replica.blocks_used
        running += replica.running
    if len(counters) > 2 * len(fleet.replicas) + 8:
        alive = {replica.replica for replica in fleet.replicas}
        counters = {name: kept for name, kept in counters.items() if name in alive}
    memory = replace(memory, replicas=counters)
    if new.finished:
        memory = _with_finished(memory, new, running / max(1, len(fleet.replicas)))
    if new.generated and running and memory.arrived:
        seconds = fleet.now - memory.arrived[-1][0]
        token_s = running * seconds / new.generated
        latency = memory.latency.with_point(seconds, running / len(fleet.replicas), token_s, seconds)
        memory = replace(memory, latency=latency)
    if running:
        weight = 1.0 if not memory.blocks else running / (running + 10 * REQUESTS_IN_A_MEAN)
        memory = replace(memory, blocks=memory.blocks + weight * (blocks / running - memory.blocks))
    return memory, new


def _with_finished(memory: Memory, new: Counters, fullness: float) -> Memory:
    """Update the means over finished requests."""
    share = new.finished / (new.finished + memory.finished)

    def mean(before: float, value: float) -> float:
        return before + share * (value - before)

    return replace(
        memory,
        finished=min(memory.finished + new.finished, REQUESTS_IN_A_MEAN),
        # No request occupies a slot for less than a step; a smaller value would make the rate infinite.
        holding_s=max(0.001, mean(memory.holding_s, new.slot_seconds / new.finished)),
        fullness=mean(memory.fullness, fullness),
        prompt=mean(memory.prompt, new.prompt_tokens / new.finished),
        prompt_square=mean(memory.prompt_square, new.prompt_squares / new.finished),
        output=mean(memory.output, new.generated / new.finished),
    )


def _recent(arrived: tuple[tuple[float, float], ...], now: float, count: float) -> tuple[tuple[float, float], ...]:
    """The counts within the longest window, at most about one per second."""
    if len(arrived) > 1 and now - arrived[-2][0] < 1.0:
        arrived = arrived[:-1]
    start = 0
    while start + 1 < len(arrived) and arrived[start + 1][0] <= now - WINDOW_S[1]:
        start += 1
    return (*arrived[start:], (now, count))


def _arrivals(memory: Memory, now: float) -> float:
    """Requests that arrived within the last service time, scaled where the window cannot be that long."""
    window = min(max(memory.service_s, WINDOW_S[0]), WINDOW_S[1])
    at, count = memory.arrived[0]
    for earlier, value in reversed(memory.arrived):
        if earlier <= now - window:
            at, count = earlier, value
            break
    seconds = now - at
    return (memory.arrived[-1][1] - count) / seconds * memory.service_s if seconds > 0 else 0.0


def _forecast(samples: tuple[Sample, ...], demand: float, now: float, service_s: float, start_up_s: float) -> float:
    """Demand a start-up time ahead: the mean of two start-up times, or their growth continued.

    Growth counts only beyond chance. The mean of demand over a window w varies by about
    ``sqrt(demand * 2 * service / w)``: at 100 slots, 13 s and two minutes that is 5 slots; a forecast of 5 more would
    start a replica every few minutes and stop it again. It must also still go on: five minutes after a step from 50 to
    150 the means still grow, and 250 will not come.
    """
    recent = [sample.rate * service_s for sample in samples if sample.at > now - start_up_s]
    earlier = [sample.rate * service_s for sample in samples if now - 2 * start_up_s < sample.at <= now - start_up_s]
    if len(recent) < SAMPLES_PER_START_UP // 2 or len(earlier) < SAMPLES_PER_START_UP // 2:
        return max(mean(recent), demand)
    level, before = mean(recent), mean(earlier)
    half = mean(recent[len(recent) // 2 :])
    chance = sqrt(2 * max(level, 1.0) * min(1.0, 2 * service_s / start_up_s))
    if level < before - chance:
        return level  # scale-down is immediate: a decline need not be forecast
    even = (level + before) / 2
    quarter = len(recent) // 4
    lately = 4 * (mean(recent[-quarter:]) - mean(recent[-2 * quarter : -quarter]))
    growth = min(level - before, 2 * (half - mean(recent[: len(recent) // 2])), lately) - chance
    slow = _slow_growth(samples, level - before + chance, now, service_s, start_up_s)
    even += slow * (2 + service_s / (2 * start_up_s))
    return max(even, half + 1.25 * growth) if growth > 0 else even


def _slow_growth(samples: tuple[Sample, ...], most: float, now: float, service_s: float, start_up_s: float) -> float:
    """Growth per start-up time that only longer means show: a day's growth is a replica in ten minutes, within chance.

    The mean over a window w is off by ``sqrt(demand * 2 * service / w)``, the difference of two of them by root two of
    that, and growth per start-up time by ``start_up / w`` of it: a window four times as long shows growth of an eighth.
    It counts as far as it is beyond chance, and as the last start-up times do not contradict it.
    """
    found = 0.0
    for start_ups in SLOW_START_UPS:
        window = start_ups * start_up_s
        recent = [sample.rate * service_s for sample in samples if sample.at > now - window]
        earlier = [sample.rate * service_s for sample in samples if now - 2 * window < sample.at <= now - window]
        if len(earlier) < 0.9 * start_ups * SAMPLES_PER_START_UP:
            break
        level = mean(recent)
        chance = sqrt(2 * max(level, 1.0) * min(1.0, 2 * service_s / window))
        found = max(found, (level - mean(earlier) - SLOW_SIGMAS * chance) / start_ups)
    return max(0.0, min(found, most))


def _sampled(samples: tuple[Sample, ...], sample: Sample, spec: ScalingSpec) -> tuple[Sample, ...]:
    """The samples with this one, if a sample is due."""
    if samples and sample.at - samples[-1].at < spec.start_up_s / SAMPLES_PER_START_UP:
        return samples
    start = 0
    while start < len(samples) and samples[start].at < sample.at - spec.memory_s - spec.start_up_s:
        start += 1
    return (*samples[start:], sample)
