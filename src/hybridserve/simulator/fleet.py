"""Discrete-event simulation of a fleet: replicas, a router, and a policy that is called once per period.

Each replica advances through its own events.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hybridserve.autoscaling.admission import Admission
from hybridserve.autoscaling.replica_metrics import FleetMetrics, ReplicaMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.errors import ConfigError
from hybridserve.settings.slo import NO_SLO, LatencySLO
from hybridserve.simulator.replica import Replica, SimulatedRequest
from hybridserve.simulator.service_times import ServiceTimes

# A router without a free replica retries after this time (Ray Serve backs off from 25 ms to 1 s).
RETRY_S = 0.1


def upper_quantile(ordered: Sequence[float], fraction: float) -> float:
    """The value above `fraction` of the sorted values: the published simulator results use this definition."""
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


@dataclass(frozen=True, slots=True)
class View:
    """The input of a policy: the metrics of the replicas, and a percentile from a metrics database."""

    metrics: FleetMetrics
    first_tokens: Sequence[tuple[float, float]] = ()
    """(when, seconds) of the first tokens of the last minute."""

    @property
    def ttft_p99(self) -> float | None:
        """p99 of the requests whose first token came in the last minute; None when there was none."""
        values = sorted(value for _, value in self.first_tokens)
        return upper_quantile(values, 0.99) if values else None


class Policy(Protocol):
    """Sets the number of replicas."""

    name: str

    def target(self, view: View) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """Options of the fleet.

    Attributes:
        min_replicas, max_replicas: bounds for every policy.
        initial: ready replicas at time zero.
        period_s: seconds between two decisions; metrics are one period old.
        max_ongoing: limit of requests on a replica, beyond which the router queues; None for no limit.
        warm_up_s: traffic that does not count, so that policies can learn and the initial number does not matter.
        drain_timeout_s: seconds after which the streams of a stopping replica are cut.
        standby: warm replicas without traffic: one takes over `standby_s` after it is requested, and another is started
            in its place. The policy does not know of them.
        standby_s: seconds until a standby replica takes requests.
        standby_price: price of a waiting one, as a share of a serving one's; one that starts costs a whole.
        admission: refuse requests that are expected to miss the target of this spec; None admits all.
        slo: targets of a request; the replicas count those that miss one.
        seed: seed of the router.
    """

    min_replicas: int = 1
    max_replicas: int = 1000
    initial: int = 1
    period_s: float = 1.0
    max_ongoing: int | None = None
    warm_up_s: float = 0.0
    drain_timeout_s: float = 600.0
    standby: int = 0
    standby_s: float = 5.0
    standby_price: float = 1.0
    admission: ScalingSpec | None = None
    slo: LatencySLO = NO_SLO
    seed: int = 1


@dataclass(slots=True)
class Run:
    """The result of a simulation.

    Attributes:
        requests: all, in order of arrival; `last` is NaN for a cut stream and for a refused request.
        seconds: counted duration.
        counted_from: end of the warm-up.
        replica_seconds: paid time in the counted duration, from the start of a replica until it is gone; standby
            replicas at their price.
        targets: (time, target replicas) at each change, from time zero.
        preemptions: of all replicas.
        given_up: stopped early because more requests missed the goals than allowed.
    """

    requests: list[SimulatedRequest]
    seconds: float
    counted_from: float = 0.0
    replica_seconds: float = 0.0
    targets: list[tuple[float, int]] = field(default_factory=list)
    preemptions: int = 0
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class MissLimit:
    """Stops a run in which more than `count` requests missed the goals, to shorten a grid search."""

    missed: Callable[[SimulatedRequest], bool]
    count: int


def simulate(
    arrivals: Sequence[tuple[float, int, int]],
    times: ServiceTimes,
    policy: Policy,
    options: FleetOptions,
    progress: Callable[[float], None] | None = None,
    miss_limit: MissLimit | None = None,
) -> Run:
    """Replay `arrivals` (time, prompt tokens, output tokens; sorted by time) on a fleet with a policy.

    Raises:
        ConfigError: a request is larger than the cache of a replica, or the options are impossible.
    """
    return _Fleet(arrivals, times, policy, options, progress, miss_limit).run()


class _Fleet:
    def __init__(
        self,
        arrivals: Sequence[tuple[float, int, int]],
        times: ServiceTimes,
        policy: Policy,
        options: FleetOptions,
        progress: Callable[[float], None] | None,
        miss_limit: MissLimit | None,
    ) -> None:
        if not 0 <= options.min_replicas <= options.max_replicas or options.max_replicas < 1:
            raise ConfigError(
                "--min/--max",
                f"bounds {options.min_replicas} to {options.max_replicas} are impossible",
                "use min <= max",
            )
        _check_fit(arrivals, times)
        self.times, self.policy, self.options, self.progress = times, policy, options, progress
        self.miss_limit, self.missed = miss_limit, 0
        self.random = random.Random(options.seed)
        self.requests = [SimulatedRequest(*arrival) for arrival in arrivals]
        self.end = arrivals[-1][0]
        self.names = 0
        self.ready: list[Replica] = []
        self.starting: list[Replica] = []
        self.draining: list[tuple[float, Replica]] = []
        self.standby = deque([0.0] * options.standby)  # when each is warm, soonest first
        self.queue: deque[SimulatedRequest] = deque()
        self.replica_metrics: tuple[ReplicaMetrics, ...] = ()
        self.first_tokens: deque[tuple[float, float]] = deque()
        self.admissions: dict[str, Admission] = {}
        self.target = min(max(options.initial, options.min_replicas), options.max_replicas)
        self.result = Run(self.requests, max(0.0, self.end - options.warm_up_s), options.warm_up_s)
        for _ in range(self.target):
            self.ready.append(self._new(0.0))
        self.result.targets.append((0.0, self.target))

    def run(self) -> Run:
        requests, count, period = self.requests, len(self.requests), self.options.period_s
        now, index = 0.0, 0
        while index < count or self.queue or self.has_open_streams:
            until = now + period
            while index < count and requests[index].arrived < until:
                request = requests[index]
                if self.queue:
                    self._retry(now, request.arrived)
                self._route(request, request.arrived)
                index += 1
            if self.queue:
                self._retry(now, until)
            self._advance(until)
            now = until
            if now <= self.end:
                self._decide(now)
                if now > self.options.warm_up_s:
                    self._count_replica_seconds(now, period)
            if self.miss_limit is not None and self.missed > self.miss_limit.count:
                self.result.given_up = True
                return self.result
            if self.progress is not None:
                self.progress(min(1.0, now / self.end))
        for replica in self.ready:
            self.result.preemptions += replica.preemptions
        return self.result

    @property
    def has_open_streams(self) -> bool:
        """Whether a replica that is ready or draining has a request."""
        return any(replica.ongoing for replica in self.ready) or bool(self.draining)

    def _new(self, ready_at: float) -> Replica:
        self.names += 1
        return Replica(self.times, f"r{self.names}", ready_at, self.options.slo)

    def _route(self, request: SimulatedRequest, now: float) -> None:
        """Power of two choices by ongoing requests, Ray Serve's default router."""
        limit = self.options.max_ongoing
        ready = self.ready
        if not ready or self.queue:
            self.queue.append(request)
            return
        if len(ready) == 1:
            replica = ready[0]
            replica.advance(now)
        else:
            replica, other = self.random.sample(ready, 2)
            replica.advance(now)
            other.advance(now)
            if other.ongoing < replica.ongoing:
                replica = other
        if limit is None or replica.ongoing < limit:
            if self._admits(replica, request):
                replica.push(request, now)
            return
        self.queue.append(request)
        self._dispatch(now)

    def _admits(self, replica: Replica, request: SimulatedRequest) -> bool:
        """Whether the gateway of a replica admits a request. A refused one is not sent again."""
        spec = self.options.admission
        if spec is None:
            return True
        admission = self.admissions.get(replica.name)
        if admission is None:
            admission = self.admissions[replica.name] = Admission(spec)
        if admission.retry_after_s(replica.metrics(), request.prompt) is None:
            return True
        request.refused = True
        replica.refused += 1
        self.missed += request.arrived >= self.options.warm_up_s
        return False

    def _retry(self, since: float, until: float) -> None:
        """Dispatch the router's queue at every retry time."""
        now = since
        while self.queue and now + RETRY_S < until:
            now += RETRY_S
            self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        limit = self.options.max_ongoing
        available: list[Replica] = []
        for replica in self.ready:
            replica.advance(now)
            if limit is None or replica.ongoing < limit:
                available.append(replica)
        while self.queue and available:
            replica = min(available, key=lambda candidate: candidate.ongoing)
            request = self.queue.popleft()
            if self._admits(replica, request):
                replica.push(request, now)
            if limit is not None and replica.ongoing >= limit:
                available.remove(replica)

    def _advance(self, until: float) -> None:
        if self.starting:
            self.ready += [replica for replica in self.starting if replica.ready_at <= until]
            self.starting = [replica for replica in self.starting if replica.ready_at > until]
        for replica in self.ready:
            replica.advance(until)
            self._take(replica, until)
        if not self.draining:
            return
        still: list[tuple[float, Replica]] = []
        for since, replica in self.draining:
            replica.advance(until)
            self._take(replica, until)
            if replica.ongoing and until - since < self.options.drain_timeout_s:
                still.append((since, replica))
            else:
                self.result.preemptions += replica.preemptions
        self.draining = still

    def _take(self, replica: Replica, now: float) -> None:
        if self.miss_limit is not None:
            since, missed = self.options.warm_up_s, self.miss_limit.missed
            self.missed += sum(request.arrived >= since and missed(request) for request in replica.done)
        replica.done.clear()
        if replica.first_tokens:
            self.first_tokens.extend((now, value) for value in replica.first_tokens)
            replica.first_tokens.clear()

    def _count_replica_seconds(self, now: float, seconds: float) -> None:
        paid: float = len(self.ready) + len(self.starting) + len(self.draining)
        paid += sum(1.0 if at > now else self.options.standby_price for at in self.standby)
        self.result.replica_seconds += seconds * paid

    def _decide(self, now: float) -> None:
        while self.first_tokens and self.first_tokens[0][0] < now - 60.0:
            self.first_tokens.popleft()
        metrics = FleetMetrics(
            now=now,
            target=self.target,
            ready=len(self.ready),
            queued=len(self.queue),
            draining=len(self.draining),
            replicas=self.replica_metrics,
        )
        wanted = self.policy.target(View(metrics, self.first_tokens))
        wanted = min(max(wanted, self.options.min_replicas), self.options.max_replicas)
        # The next decision uses these metrics: reports take one period.
        self.replica_metrics = tuple(replica.metrics(self.options.period_s) for replica in self.ready)
        if wanted != self.target:
            self.target = wanted
            self.result.targets.append((now, wanted))
            self._resize(now)

    def _ready_at(self, now: float) -> float:
        """When a replica that is requested now is ready: a standby one, if that is sooner."""
        ready_at = now + self.times.start_up_s
        if not self.standby or max(now, self.standby[0]) + self.options.standby_s >= ready_at:
            return ready_at
        warm_at = self.standby.popleft()
        self.standby.append(ready_at)
        return max(now, warm_at) + self.options.standby_s

    def _resize(self, now: float) -> None:
        missing = self.target - len(self.ready) - len(self.starting)
        for _ in range(missing):
            self.starting.append(self._new(self._ready_at(now)))
        for _ in range(-missing):
            if self.starting:
                self.starting.pop()
            else:
                self.draining.append((now, self.ready.pop()))


def _check_fit(arrivals: Sequence[tuple[float, int, int]], times: ServiceTimes) -> None:
    if not arrivals:
        raise ConfigError("workload", "has no requests", "use at least one request")
    capacity = times.capacity()
    longest = max(prompt + output for _, prompt, output in arrivals)
    if capacity.blocks(longest) > capacity.usable_blocks:
        raise ConfigError(
            "workload",
            f"a request of {longest} tokens needs {capacity.blocks(longest)} blocks, a replica has "
            f"{capacity.usable_blocks}",
            "shorten it, or use a calibration with a larger cache",
        )
