"""Every policy with the settings to try: what a patient operator would find for one workload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.errors import ConfigError
from hybridserve.settings.slo import LatencySLO
from hybridserve.simulator.fleet import Allowance, FleetOptions, Policy, simulate
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
from hybridserve.simulator.score import Score, score, slo_missed
from hybridserve.simulator.service_times import ServiceTimes
from hybridserve.simulator.traffic import Arrival

STOCK = ("fixed", "ray-queue-length", "ray-ttft", "keda-waiting", "knative-concurrency", "kv-usage")
POLICIES = ("hybridserve", *STOCK, "oracle")


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """A policy with one choice of settings.

    Attributes:
        initial: replicas that are ready when it begins; None leaves that to the scene.
        row: candidates of one row stand from the cheapest to the dearest.
    """

    policy: str
    settings: str
    build: Callable[[], Policy]
    initial: int | None = None
    row: str | None = None


@dataclass(frozen=True, slots=True)
class TuningResult:
    """A candidate and what it came to; given up, its score is that of the part that was run."""

    policy: str
    settings: str
    score: Score
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """A workload on an engine with objectives and bounds: everything but the policy."""

    arrivals: Sequence[Arrival]
    times: ServiceTimes
    slo: LatencySLO
    options: FleetOptions

    def run(
        self,
        candidate: PolicyConfig,
        progress: Callable[[float], None] | None = None,
        attainment: float | None = None,
    ) -> TuningResult:
        """Replay it under one candidate, with `attainment` only as long as it can still reach so much."""
        options, overhead_s = self.options, self.times.request_overhead_s
        if candidate.initial is not None:
            options = replace(options, initial=candidate.initial)
        allowance = None
        if attainment is not None:
            counted = sum(at >= options.warm_up_s for at, _, _ in self.arrivals)
            allowance = Allowance(
                lambda request: slo_missed(request, self.slo, overhead_s), int((1 - attainment) * counted)
            )
        run = simulate(self.arrivals, self.times, candidate.build(), options, progress, allowance)
        judged = score(run, self.slo, overhead_s)
        return TuningResult(candidate.policy, candidate.settings, judged, run.given_up)

    def spec(self) -> ScalingSpec:
        """What our law is told: bounds, goals, the plan. Nothing about the workload."""
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


def candidates(policy: str, scene: Scenario) -> Iterator[PolicyConfig]:
    """The settings to try for a policy.

    Raises:
        ConfigError: no such policy.
    """
    slots = scene.times.capacity().state_slots
    if policy == "hybridserve":
        yield PolicyConfig(policy, "none to tune", partial(HybridServePolicy, scene.spec()))
    elif policy == "fixed":
        busy = needs(scene.arrivals, scene.times)
        mean, peak = sum(busy) / len(busy), max(busy)
        counts = {max(1, ceil(mean + (1.1 * peak - mean) * step / 8)) for step in range(9)}
        for count in sorted(counts):
            yield PolicyConfig(policy, f"{count} replicas", partial(Fixed, count), initial=count, row=policy)
    elif policy == "ray-queue-length":
        for up, down in ((5, 120), (30, 600)):
            for share in (0.5, 0.65, 0.8, 0.95):
                yield PolicyConfig(
                    policy,
                    f"target {share * slots:.1f}, delays {up}/{down} s",
                    partial(RayQueueLength, share * slots, up, down),
                )
    elif policy == "ray-ttft":
        for goal in (0.5, 1.0, 2.0):
            for idle in (1.0, slots / 2):
                yield PolicyConfig(
                    policy,
                    f"p99 {goal:g} s, idle {idle:g}, delays 5/60 s",
                    partial(RayTtft, goal, idle, 5, 60),
                )
    elif policy == "keda-waiting":
        for stabilisation in (60, 300):
            for threshold in (0.25, 0.5, 1.0, 5.0):
                yield PolicyConfig(
                    policy,
                    f"threshold {threshold:g}, window {stabilisation} s",
                    partial(KedaWaiting, threshold, stabilisation),
                )
    elif policy == "knative-concurrency":
        for delay in (0, 120):
            for share in (0.5, 0.65, 0.8, 0.95):
                yield PolicyConfig(
                    policy,
                    f"concurrency {share * slots:.1f}, down delay {delay} s",
                    partial(KnativeConcurrency, share * slots, down_delay_s=delay),
                )
    elif policy == "kv-usage":
        usable = scene.times.capacity().usable_blocks
        for stabilisation in (60, 300):
            for threshold in (0.4, 0.5, 0.65, 0.8):
                yield PolicyConfig(
                    policy,
                    f"threshold {threshold:g}, window {stabilisation} s",
                    partial(KvUsage, threshold, stabilisation, usable_blocks=usable),
                )
    elif policy == "oracle":
        need = needs(scene.arrivals, scene.times)
        for window in (30, 90):
            for packing in (1.1, 1.04, 0.98, 0.92, 0.85, 0.78, 0.7, 0.6, 0.5):
                plan = schedule(need, scene.times.start_up_s, packing, window)
                yield PolicyConfig(
                    policy,
                    f"packing {packing:g}, mean over {window} s",
                    partial(schedule, need, scene.times.start_up_s, packing, window),
                    plan.replicas[0],
                    f"{policy} {window}",
                )
    else:
        raise ConfigError("--policy", f"{policy!r} is not one", ", ".join(POLICIES))


def tune(
    policy: str, scene: Scenario, tried: Callable[[TuningResult], None] | None = None, attainment: float | None = None
) -> list[TuningResult]:
    """The trials of a policy.

    With `attainment` each runs only as long as it can still reach so much, and the first of a row that does ends it.
    """
    trials: list[TuningResult] = []
    ended: set[str] = set()
    for candidate in candidates(policy, scene):
        if candidate.row in ended:
            continue
        trials.append(scene.run(candidate, attainment=attainment))
        if attainment is not None and candidate.row is not None and not trials[-1].given_up:
            ended.add(candidate.row)
        if tried is not None:
            tried(trials[-1])
    return trials


def cheapest(trials: Sequence[TuningResult], attainment: float) -> TuningResult | None:
    """The cheapest trial that attains at least so much, or None."""
    reached = [trial for trial in trials if not trial.given_up and trial.score.attainment >= attainment]
    return min(reached, key=lambda trial: trial.score.replica_hours) if reached else None


def best(trials: Sequence[TuningResult]) -> TuningResult:
    """The trial that attains most; of equals the cheapest."""
    return max(trials, key=lambda trial: (trial.score.attainment, -trial.score.replica_hours))
