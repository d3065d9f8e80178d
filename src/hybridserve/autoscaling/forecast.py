"""From counters of replicas to demand: how many slots are due now, and how many will be when a new replica is ready.

Demand is the number of requests that arrived within the last service time: what would be running were there no queue.
Unlike the number of running requests it does not saturate when the slots are full, and unlike the length of the queue
it is there before a queue is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt

from hybridserve.autoscaling.replica_metrics import FleetMetrics
from hybridserve.autoscaling.seasonality import BINS_PER_START_UP, SeasonalModel
from hybridserve.autoscaling.spec import ScalingSpec

# Service time is taken over about this many finished requests: enough to be a mean, few enough to follow the traffic.
REQUESTS_IN_A_MEAN = 200.0
# Fewer than this are no mean: the first request of an engine took 21 s on a busy machine where the next took 0.3 s. And
# a mean of few moves fast: when the first one weighed as much as 200, a second replica was started for it.
REQUESTS_FOR_A_MEAN = 20
# Shorter windows count too few arrivals, longer ones too old ones.
WINDOW_S = (5.0, 120.0)
# How fast an engine is changes with the traffic's lengths, within tens of minutes.
PACE_S = 1800.0
# Forecasts a start-up time apart are independent of each other; those in between show when a surprise began.
SAMPLES_PER_START_UP = 12
# Slow growth is looked for over windows of so many start-up times, and counts beyond so many deviations of chance.
SLOW_START_UPS = (2, 4)
SLOW_SIGMAS = 1.0
# Errors up to this many standard deviations of chance are no surprise (1 in 1000).
CHANCE_SIGMAS = 3.0


@dataclass(frozen=True, slots=True)
class Counters:
    """What one replica had counted when it was last seen."""

    arrived: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    prompt_squares: float = 0.0
    generated: int = 0
    slot_seconds: float = 0.0

    def since(self, last: Counters) -> Counters:
        """The difference. An engine that has counted less than before was started again: then from zero."""
        if self.arrived < last.arrived or self.finished < last.finished:
            return self
        return Counters(
            self.arrived - last.arrived,
            self.finished - last.finished,
            self.prompt_tokens - last.prompt_tokens,
            self.prompt_squares - last.prompt_squares,
            self.generated - last.generated,
            self.slot_seconds - last.slot_seconds,
        )

    def plus(self, other: Counters) -> Counters:
        return Counters(
            self.arrived + other.arrived,
            self.finished + other.finished,
            self.prompt_tokens + other.prompt_tokens,
            self.prompt_squares + other.prompt_squares,
            self.generated + other.generated,
            self.slot_seconds + other.slot_seconds,
        )


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """How the seconds that one output token takes depend on how many sequences share a replica: a running line.

    Weighted sums over the tokens that came out, old ones forgotten. A line, because a step reads the weights once and
    each sequence's state and cache once more.
    """

    weight: float = 0.0
    running: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    product: float = 0.0

    def with_point(self, weight: float, running: float, seconds: float, age_s: float) -> LatencyModel:
        """The line with one more point, `age_s` after the last one."""
        keep = max(0.0, 1 - age_s / PACE_S)
        return LatencyModel(
            self.weight * keep + weight,
            self.running * keep + weight * running,
            self.seconds * keep + weight * seconds,
            self.squares * keep + weight * running * running,
            self.product * keep + weight * running * seconds,
        )

    def slowdown(self, at: float, measured: float) -> float:
        """Seconds of a token with `at` sequences a replica, over those with `measured`; at most 2, at least 1."""
        if not self.weight or not self.seconds:
            return 1.0
        running, seconds = self.running / self.weight, self.seconds / self.weight
        spread = self.squares / self.weight - running * running
        if spread < 0.25:
            return 1.0  # it has always been equally full: a line through one point has no slope
        slope = max(0.0, (self.product / self.weight - running * seconds) / spread)
        # The line is extrapolated; half of the mean is as fast as it is believed to be.
        before = max(seconds / 2, seconds + slope * (measured - running))
        return min(2.0, max(1.0, (seconds + slope * (at - running)) / before))


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests a second at one moment, and what was then forecast for a start-up time later.

    Kept as rates: how long a request stays depends on how full replicas are, and an hour of slots that were counted
    while they were full is no forecast for the hour in which they are not.
    """

    at: float
    rate: float
    forecast: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What the law remembers of the past. Everything in it is plain data.

    Attributes:
        replicas: counters by replica.
        arrived: requests since the law began to look, at each of the last moments: (time, count).
        finished: requests that the means below are over, at most `REQUESTS_IN_A_MEAN`.
        holding_s: mean time they held a slot.
        fullness: sequences that ran on a replica meanwhile.
        prompt, prompt_square: mean prompt tokens of a request, and mean of their square.
        output: mean tokens of an answer.
        pace: how service slows down as replicas fill.
        blocks: mean blocks of a running sequence.
        samples: rates and forecasts, some in each start-up time, as far back as the spec remembers.
        surprise: what follows from them.
        season: arrivals by the clock.
    """

    replicas: Mapping[str, Counters] = field(default_factory=dict)
    arrived: tuple[tuple[float, float], ...] = ()
    finished: float = 0.0
    holding_s: float = 0.0
    fullness: float = 0.0
    prompt: float = 0.0
    prompt_square: float = 0.0
    output: float = 0.0
    pace: LatencyModel = field(default_factory=LatencyModel)
    blocks: float = 0.0
    samples: tuple[Sample, ...] = ()
    surprise: ForecastError = field(default_factory=lambda: ForecastError())
    season: SeasonalModel = field(default_factory=SeasonalModel)

    @property
    def service_s(self) -> float:
        """Mean time a request holds a slot; 0 while too few have finished to say."""
        return self.holding_s if self.finished >= REQUESTS_FOR_A_MEAN else 0.0


@dataclass(frozen=True, slots=True)
class ForecastError:
    """What the remembered errors of forecasts come to.

    Attributes:
        sigmas: how far demand exceeded them at the quantile of the goal, beyond chance, in roots of the forecast.
        peak: the most that was due for half a start-up time.
    """

    sigmas: float = 0.0
    peak: float = 0.0

    def slots(self, forecast: float) -> float:
        """Slots to keep on top of a forecast. In the middle of a burst there is no need of room for another on top."""
        return min(self.sigmas * sqrt(max(forecast, 1.0)), max(0.0, self.peak - forecast))


@dataclass(frozen=True, slots=True)
class Demand:
    """Slots that are due.

    Attributes:
        now: requests that arrived within the last service time.
        forecast: the same when a replica that is asked for now is ready.
        surprise: by how much forecasts have lately been too low, beyond chance.
        period_s: of the round that the forecast follows; 0 when it follows the trend.
        over: by the clock, a peak has just ended.
    """

    now: float
    forecast: float
    surprise: float
    period_s: float = 0.0
    over: bool = False


def remember(memory: Memory, seen: FleetMetrics, spec: ScalingSpec) -> tuple[Memory, Demand]:
    """Take in one observation. Returns the new memory and the demand it shows."""
    memory, new = _count(memory, seen)
    before = memory.arrived[-1][1] if memory.arrived else 0.0
    memory = replace(memory, arrived=_recent(memory.arrived, seen.now, before + new))
    now = _arrivals(memory, seen.now) + seen.queued
    if not memory.service_s:
        # Too few have finished: all that is known is who is there.
        now = float(seen.queued + sum(reading.running + reading.waiting for reading in seen.readings))
    season = memory.season.with_arrivals(seen.now, new, spec.start_up_s, spec.calendar_s)
    if bool(season.period) != bool(memory.season.period):
        # Errors of the other kind of forecast say nothing about this one's.
        memory = replace(memory, samples=(), surprise=ForecastError())
    memory = replace(memory, season=season)
    service_s = memory.service_s
    ahead = season.ahead(spec.start_up_s) if service_s else None
    if ahead is None:
        forecast = max(0.0, _forecast(memory.samples, now, seen.now, memory.service_s, spec.start_up_s))
    else:
        forecast = ahead.rate * service_s
    if memory.surprise.sigmas and ahead is None:
        # Where bursts are known a steep rise is one more of them, and they end where they ended: without this, three
        # times the rate for three minutes was answered with room for five times.
        forecast = min(forecast, max(memory.surprise.peak, now))
    if service_s:
        samples = _sampled(memory.samples, Sample(seen.now, now / service_s, forecast / service_s), spec)
        if samples is not memory.samples:
            memory = replace(memory, samples=samples, surprise=surprise(samples, service_s, spec))
    period_s = season.period * spec.start_up_s / BINS_PER_START_UP
    over = ahead is not None and ahead.over
    return memory, Demand(now, forecast, memory.surprise.slots(forecast), period_s, over)


def _count(memory: Memory, seen: FleetMetrics) -> tuple[Memory, float]:
    """Differences of the counters since the last look; a replica seen for the first time counts from zero."""
    first_look = not memory.arrived
    new = Counters()
    blocks, running = 0, 0
    counters = dict(memory.replicas)
    for reading in seen.readings:
        now = Counters(
            reading.arrived,
            reading.finished,
            reading.prompt_tokens,
            reading.prompt_squares,
            reading.generated,
            reading.slot_seconds,
        )
        last = counters.get(reading.replica)
        if last is None:
            last = now if first_look else Counters()
        new = new.plus(now.since(last))
        counters[reading.replica] = now
        blocks += reading.blocks_used
        running += reading.running
    if len(counters) > 2 * len(seen.readings) + 8:
        alive = {reading.replica for reading in seen.readings}
        counters = {name: kept for name, kept in counters.items() if name in alive}
    memory = replace(memory, replicas=counters)
    if new.finished:
        memory = _with_finished(memory, new, running / max(1, len(seen.readings)))
    if new.generated and running and memory.arrived:
        seconds = seen.now - memory.arrived[-1][0]
        each = running * seconds / new.generated
        memory = replace(memory, pace=memory.pace.with_point(seconds, running / len(seen.readings), each, seconds))
    if running:
        weight = 1.0 if not memory.blocks else running / (running + 10 * REQUESTS_IN_A_MEAN)
        memory = replace(memory, blocks=memory.blocks + weight * (blocks / running - memory.blocks))
    return memory, float(new.arrived)


def _with_finished(memory: Memory, new: Counters, fullness: float) -> Memory:
    """Means over finished requests."""
    mean = new.finished / (new.finished + memory.finished)
    return replace(
        memory,
        finished=min(memory.finished + new.finished, REQUESTS_IN_A_MEAN),
        # Nothing holds a slot for less than a step; a clock that says so would make the rate of arrivals infinite.
        holding_s=max(0.001, memory.holding_s + mean * (new.slot_seconds / new.finished - memory.holding_s)),
        fullness=memory.fullness + mean * (fullness - memory.fullness),
        prompt=memory.prompt + mean * (new.prompt_tokens / new.finished - memory.prompt),
        prompt_square=memory.prompt_square + mean * (new.prompt_squares / new.finished - memory.prompt_square),
        output=memory.output + mean * (new.generated / new.finished - memory.output),
    )


def _recent(arrived: tuple[tuple[float, float], ...], now: float, count: float) -> tuple[tuple[float, float], ...]:
    """The counts within the longest window, at most about one a second."""
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
    if seconds <= 0:
        return 0.0
    return (memory.arrived[-1][1] - count) / seconds * memory.service_s


def _forecast(samples: tuple[Sample, ...], demand: float, now: float, service_s: float, start_up_s: float) -> float:
    """Demand a start-up time ahead: the mean of two start-up times, or their growth carried on.

    Growth counts only beyond what chance makes of it. The mean of demand over a window w varies by about
    ``sqrt(demand * 2 * service / w)``: at 100 slots, 13 s and two minutes that is 5 slots, and a forecast that carried
    them on would ask for a replica more every few minutes and give it back. It must also still go on: five minutes
    after a step from 50 to 150 the means still grow, and 250 will not come.
    """
    recent = [sample.rate * service_s for sample in samples if sample.at > now - start_up_s]
    earlier = [sample.rate * service_s for sample in samples if now - 2 * start_up_s < sample.at <= now - start_up_s]
    if len(recent) < SAMPLES_PER_START_UP // 2 or len(earlier) < SAMPLES_PER_START_UP // 2:
        return max(_mean(recent), demand)
    level, before = _mean(recent), _mean(earlier)
    half = _mean(recent[len(recent) // 2 :])
    chance = sqrt(2 * max(level, 1.0) * min(1.0, 2 * service_s / start_up_s))
    if level < before - chance:
        return level  # giving back is at once: no need to foresee a decline
    even = (level + before) / 2
    quarter = len(recent) // 4
    lately = 4 * (_mean(recent[-quarter:]) - _mean(recent[-2 * quarter : -quarter]))
    growth = min(level - before, 2 * (half - _mean(recent[: len(recent) // 2])), lately) - chance
    slow = _slow_growth(samples, level - before + chance, now, service_s, start_up_s)
    even += slow * (2 + service_s / (2 * start_up_s))
    return max(even, half + 1.25 * growth) if growth > 0 else even


def _slow_growth(samples: tuple[Sample, ...], most: float, now: float, service_s: float, start_up_s: float) -> float:
    """Growth in a start-up time that only longer means show: a day's is a replica in ten minutes, well within chance.

    The mean over a window w is off by ``sqrt(demand * 2 * service / w)``, what two of them say of growth by root two of
    that, and growth within a start-up time by ``start_up / w`` of it: a window four times as long tells growth of an
    eighth. It counts as far as it is beyond chance, and as the last start-up times do not deny it.
    """
    found = 0.0
    for start_ups in SLOW_START_UPS:
        window = start_ups * start_up_s
        recent = [sample.rate * service_s for sample in samples if sample.at > now - window]
        earlier = [sample.rate * service_s for sample in samples if now - 2 * window < sample.at <= now - window]
        if len(earlier) < 0.9 * start_ups * SAMPLES_PER_START_UP:
            break
        level = _mean(recent)
        chance = sqrt(2 * max(level, 1.0) * min(1.0, 2 * service_s / window))
        found = max(found, (level - _mean(earlier) - SLOW_SIGMAS * chance) / start_ups)
    return max(0.0, min(found, most))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _sampled(samples: tuple[Sample, ...], sample: Sample, spec: ScalingSpec) -> tuple[Sample, ...]:
    period = spec.start_up_s / SAMPLES_PER_START_UP
    if samples and sample.at - samples[-1].at < period:
        return samples
    start = 0
    while start < len(samples) and samples[start].at < sample.at - spec.memory_s - spec.start_up_s:
        start += 1
    return (*samples[start:], sample)


def surprise(samples: tuple[Sample, ...], service_s: float, spec: ScalingSpec) -> ForecastError:
    """How far demand has exceeded forecasts, beyond chance.

    Chance leaves errors of a few ``sqrt(forecast)``, and that is what `spare_servers` is for. What is beyond them are
    bursts, and as long as they are remembered room is kept for the next one. The worst of them is left out with all
    errors around it: once in the memory is an accident, twice is a pattern.
    """
    lag = SAMPLES_PER_START_UP
    errors = [
        (after.at, (after.rate - before.forecast) * service_s / sqrt(max(before.forecast * service_s, 1.0)))
        for before, after in zip(samples, samples[lag:], strict=False)
    ]
    if len(errors) <= 2 * lag:
        return ForecastError()
    worst = max(errors, key=lambda error: error[1])[0]
    left = sorted(error for at, error in errors if abs(at - worst) > 2 * spec.start_up_s)
    if not left:
        return ForecastError()
    quantile = left[min(len(left) - 1, int(spec.attainment * len(left)))]
    demand = [sample.rate * service_s for sample in samples]
    peak = max(_mean(demand[index : index + lag // 2]) for index in range(len(demand) - lag // 2 + 1))
    return ForecastError(max(0.0, quantile - CHANCE_SIGMAS), peak)
