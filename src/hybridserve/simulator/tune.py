"""A grid search over the settings of every policy for a workload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import ceil

from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.errors import ConfigError
from hybridserve.settings.slo import LatencySLO
from hybridserve.simulator.fleet import FleetOptions, MissLimit, Policy, simulate
from hybridserve.simulator.oracle import needs, schedule
from hybridserve.simulator.policies import (
    Fixed,
    HybridServePolicy,
    KedaWaiting,
    KnativeConcurrency,
    KvUsage,
    RayQueueLength,
    RayTtft,
)
from hybridserve.simulator.score import Score, score, slo_met
from hybridserve.simulator.service_times import ServiceTimes
from hybridserve.simulator.traffic import Arrival
from hybridserve.units import counted

ABOUT = {
    "hybrid": "this package's (scaling.policy: hybrid), with section scaling of the settings; nothing to tune",
    "fixed": "a constant number of replicas, from the mean to the peak of the demand, and up to --max where the goal "
    "needs more",
    "ray-queue-length": "Ray Serve's default (scaling.policy: queue_length): a target of running and waiting requests "
    "per replica",
    "ray-ttft": "Ray Serve LLM's: one more replica while p99 of the time to first token is over a goal",
    "keda-waiting": "KEDA on vLLM's number of waiting requests",
    "knative-concurrency": "Knative's: a target of concurrent requests per replica, with a panic window",
    "kv-usage": "the Kubernetes autoscaler on vLLM's share of used cache blocks",
    "oracle": "knows all requests beforehand: a lower bound of the cost, which no policy reaches; packing is the "
    "share of a replica that may be in use",
}
"""Policies by name, with what they are."""
POLICIES = tuple(ABOUT)
STOCK = POLICIES[1:-1]


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """A policy with one set of settings.

    Attributes:
        initial: ready replicas at the start; None for the scenario's.
        row: name of a series of configurations that is sorted by cost, cheapest first.
        beyond: after the grid; to be tried only while no earlier one of its row has reached the attainment.
    """

    policy: str
    settings: str
    build: Callable[[], Policy]
    initial: int | None = None
    row: str | None = None
    beyond: bool = False


@dataclass(frozen=True, slots=True)
class TuningResult:
    """A configuration and its score; when given up, the score of the part that ran."""

    policy: str
    settings: str
    score: Score
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """Traffic, engine, SLO and bounds: everything except the policy.

    Attributes:
        scaling: what this package's policy gets in a deployment; None: what follows from the rest.
    """

    arrivals: Sequence[Arrival]
    times: ServiceTimes
    slo: LatencySLO
    options: FleetOptions
    scaling: ScalingSpec | None = None

    def run(
        self,
        candidate: PolicyConfig,
        progress: Callable[[float], None] | None = None,
        attainment: float | None = None,
    ) -> TuningResult:
        """Simulate a configuration; with `attainment` only while that share can still be reached."""
        options, overhead_s = replace(self.options, slo=self.slo), self.times.request_overhead_s
        if candidate.initial is not None:
            options = replace(options, initial=candidate.initial)
        miss_limit = None
        if attainment is not None:
            counted = sum(at >= options.warm_up_s for at, _, _ in self.arrivals)
            missed = int((1 - attainment) * counted)
            miss_limit = MissLimit(lambda request: not all(slo_met(request, self.slo, overhead_s)), missed)
        run = simulate(self.arrivals, self.times, candidate.build(), options, progress, miss_limit)
        judged = score(run, self.slo, overhead_s)
        return TuningResult(candidate.policy, candidate.settings, judged, run.given_up)

    def spec(self) -> ScalingSpec:
        """The input of this package's policy: bounds, SLO and the plan, nothing about the workload."""
        if self.scaling is not None:
            return self.scaling
        assert self.slo.ttft_s is not None
        return ScalingSpec(
            capacity=self.times.capacity(),
            min_replicas=self.options.min_replicas,
            max_replicas=self.options.max_replicas,
            start_up_s=self.times.start_up_s,
            ttft_s=self.slo.ttft_s,
            ttft_per_prompt_token_s=self.slo.ttft_per_prompt_token_s,
            inter_token_s=self.slo.inter_token_s,
        )


def _fixed(count: int) -> PolicyConfig:
    return PolicyConfig("fixed", counted(count, "replica"), partial(Fixed, count), initial=count, row="fixed")


def candidates(policy: str, scenario: Scenario) -> Iterator[PolicyConfig]:
    """The configurations to try for a policy.

    Raises:
        ConfigError: no such policy.
    """
    slots = scenario.times.capacity().state_slots
    if policy == "hybrid":
        yield PolicyConfig(policy, "none to tune", partial(HybridServePolicy, scenario.spec()))
    elif policy == "fixed":
        busy = needs(scenario.arrivals, scenario.times)
        mean, peak = sum(busy) / len(busy), max(busy)
        # The fleet stays within its bounds, so a number outside of them would be another fleet than its label says.
        low, high = max(1, scenario.options.min_replicas), scenario.options.max_replicas
        counts = {min(high, max(low, ceil(mean + (1.1 * peak - mean) * step / 8))) for step in range(9)}
        for count in sorted(counts):
            yield _fixed(count)
        # The demand is computed without queues: where they form, the peak is not enough.
        count = max(counts)
        while count < high:
            count = min(high, count + max(1, count // 4))
            yield replace(_fixed(count), beyond=True)
    elif policy == "ray-queue-length":
        for (up, down), share in product(((5, 120), (30, 600)), (0.5, 0.65, 0.8, 0.95)):
            about = f"target {share * slots:.1f}, delays {up}/{down} s"
            yield PolicyConfig(
                policy, about, partial(RayQueueLength, target_ongoing=share * slots, up_s=up, down_s=down)
            )
    elif policy == "ray-ttft":
        for goal, idle in product((0.5, 1.0, 2.0), (1.0, slots / 2)):
            about = f"p99 {goal:g} s, idle {idle:g}, delays 5/60 s"
            yield PolicyConfig(policy, about, partial(RayTtft, goal_s=goal, idle_ongoing=idle, up_s=5, down_s=60))
    elif policy == "keda-waiting":
        for stabilization, threshold in product((60, 300), (0.25, 0.5, 1.0, 5.0)):
            about = f"threshold {threshold:g}, window {stabilization} s"
            yield PolicyConfig(policy, about, partial(KedaWaiting, threshold, stabilization))
    elif policy == "knative-concurrency":
        for delay, share in product((0, 120), (0.5, 0.65, 0.8, 0.95)):
            about = f"concurrency {share * slots:.1f}, down delay {delay} s"
            yield PolicyConfig(policy, about, partial(KnativeConcurrency, share * slots, down_delay_s=delay))
    elif policy == "kv-usage":
        usable = scenario.times.capacity().usable_blocks
        for stabilization, threshold in product((60, 300), (0.4, 0.5, 0.65, 0.8)):
            about = f"threshold {threshold:g}, window {stabilization} s"
            build = partial(KvUsage, threshold, stabilization, usable_blocks=usable)
            yield PolicyConfig(policy, about, build)
    elif policy == "oracle":
        need = needs(scenario.arrivals, scenario.times)
        for window in (30, 90):
            for packing in (1.1, 1.04, 0.98, 0.92, 0.85, 0.78, 0.7, 0.6, 0.5):
                plan = schedule(need, scenario.times.start_up_s, packing, window)
                yield PolicyConfig(
                    policy,
                    f"packing {packing:g}, mean over {window} s",
                    partial(schedule, need, scenario.times.start_up_s, packing, window),
                    plan.replicas[0],
                    f"{policy} {window}",
                )
    else:
        raise ConfigError("--policy", f"there is no policy {policy!r}", f"use one of {', '.join(POLICIES)}")


def tune(
    policy: str,
    scenario: Scenario,
    tried: Callable[[TuningResult], None] | None = None,
    attainment: float | None = None,
) -> list[TuningResult]:
    """Simulate the configurations of a policy.

    With `attainment` a run ends when it cannot reach that share, and a row ends with its first run that reaches it.
    Without it, the grid alone is run.
    """
    trials: list[TuningResult] = []
    ended: set[str] = set()
    for candidate in candidates(policy, scenario):
        if candidate.row in ended or (candidate.beyond and attainment is None):
            continue
        trials.append(scenario.run(candidate, attainment=attainment))
        if attainment is not None and candidate.row is not None and not trials[-1].given_up:
            ended.add(candidate.row)
        if tried is not None:
            tried(trials[-1])
    return trials


def cheapest(trials: Sequence[TuningResult], attainment: float) -> TuningResult | None:
    """The cheapest trial with at least this attainment, or None."""
    reached = [trial for trial in trials if not trial.given_up and trial.score.attainment >= attainment]
    return min(reached, key=lambda trial: trial.score.replica_hours) if reached else None


def best(trials: Sequence[TuningResult]) -> TuningResult:
    """The trial with the highest attainment; among equals the cheapest."""
    return max(trials, key=lambda trial: (trial.score.attainment, -trial.score.replica_hours))
