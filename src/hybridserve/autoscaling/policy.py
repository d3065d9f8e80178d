"""The law: how many replicas there shall be.

`decide` is pure: the clock is in the observation, what it remembers is in the state, which comes back in the decision.
It runs in Ray Serve's control loop and in the simulator, unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, sqrt

from hybridserve.autoscaling.forecast import Demand, Memory, remember
from hybridserve.autoscaling.queueing import (
    highest_share,
    highest_utilization,
    highest_utilization_of_two,
    spare_for_prompts,
    spare_servers,
)
from hybridserve.autoscaling.replica_metrics import FleetMetrics
from hybridserve.autoscaling.spec import ScalingSpec

# Demand this many standard deviations above the forecast is no chance (1 in 30,000) and does not wait for a trend.
BURST_SIGMAS = 4.0
# Giving back waits until nothing has asked for more for this many start-up times: an idle replica costs no more than
# the start-up of the one that would have to be asked for again.
HOLD_START_UPS = 1.0
# When a peak has ended by the clock it is known that nothing will ask for it again: only chance is to be waited for.
HOLD_BY_THE_CLOCK = 0.25


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What one decision leaves to the next.

    Attributes:
        memory: of demand.
        wanted: (time, replicas) that raw decisions asked for lately, the largest first: a sliding maximum.
        since: when the law began to look; None before.
        busy_at: when there was last any request.
    """

    memory: Memory = field(default_factory=Memory)
    wanted: tuple[tuple[float, int], ...] = ()
    since: float | None = None
    busy_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ScalingLimits:
    """Replicas that each resource asks for by itself, as fractions. The largest binds."""

    state_slots: float = 0.0
    kv_blocks: float = 0.0
    prefill: float = 0.0

    @property
    def binding(self) -> str:
        named = {"state slots": self.state_slots, "KV blocks": self.kv_blocks, "prefill tokens": self.prefill}
        return max(named, key=lambda name: named[name])

    @property
    def replicas(self) -> int:
        # 3.0000001 replicas are 3.
        return ceil(max(self.state_slots, self.kv_blocks, self.prefill) - 1e-6)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why in words."""

    replicas: int
    reason: str
    limits: ScalingLimits
    state: PolicyState


def compute_replicas(seen: FleetMetrics, spec: ScalingSpec, state: PolicyState) -> Decision:
    """The number of replicas for this observation.

    It never leaves the bounds, never moves faster than the rate limits, and never goes down on silence.
    """
    fresh = tuple(reading for reading in seen.readings if reading.age_s <= spec.stale_s)
    silent = seen.ready - len(fresh)
    seen = replace(seen, readings=fresh)
    if state.since is None:
        state = replace(state, since=seen.now, busy_at=seen.now)
    if seen.ready and not fresh:
        # Nothing is learnt from silence either: a hole in the readings would look like a lull to every forecast.
        return _bounded(
            seen, spec, seen.target, f"no reading from any of {seen.ready} replicas: hold", ScalingLimits(), state
        )
    memory, demand = remember(state.memory, seen, spec)
    present = seen.queued + sum(reading.running + reading.waiting for reading in fresh)
    state = replace(state, memory=memory, busy_at=seen.now if present else state.busy_at)

    limits, why = _limits(demand, present, seen, spec, memory)
    wanted = limits.replicas
    if present or demand.now > 0:
        wanted = max(wanted, 1)
    elif wanted <= 1:
        wanted, why = _idle(seen, spec, state.busy_at)

    # A replica that is taken back and then needed again costs its start-up, and users wait for it.
    hold_s = (HOLD_BY_THE_CLOCK if demand.over else HOLD_START_UPS) * spec.start_up_s
    kept = tuple((at, count) for at, count in state.wanted if at > seen.now - hold_s and count > wanted)
    state = replace(state, wanted=(*kept, (seen.now, wanted)))
    if wanted >= seen.target:
        return _bounded(seen, spec, wanted, why, limits, state)
    if silent > 0:
        return _bounded(seen, spec, seen.target, f"{silent} of {seen.ready} replicas are silent: hold", limits, state)
    if state.since is not None and seen.now - state.since < HOLD_START_UPS * spec.start_up_s:
        # A controller that was started again has no past: who it finds running was wanted by somebody who had one.
        why = f"looking for {seen.now - state.since:.0f} s only: hold"
        return _bounded(seen, spec, seen.target, why, limits, state)
    if seen.draining:
        # The longest streams say when: what is not yet gone may still show that it is missing.
        return _bounded(seen, spec, seen.target, f"{seen.draining} replicas still drain: hold", limits, state)
    if kept and kept[0][1] >= seen.target:
        why = f"{kept[0][1]} were needed {seen.now - kept[0][0]:.0f} s ago: hold"
        return _bounded(seen, spec, seen.target, why, limits, state)
    return _bounded(seen, spec, max(wanted, kept[0][1] if kept else 0), why, limits, state)


def _limits(
    demand: Demand, present: int, seen: FleetMetrics, spec: ScalingSpec, memory: Memory
) -> tuple[ScalingLimits, str]:
    """Replicas by each resource, and the sentence that says why."""
    capacity = spec.capacity
    work_s = memory.prompt / capacity.prefill_tokens_per_s
    wait_s = max(0.0, spec.ttft_s + spec.ttft_per_prompt_token_s * memory.prompt - work_s)
    miss = 1 - spec.attainment
    # Fewer replicas are fuller ones, and a fuller one takes longer: 55 busy slots on 5 replicas of 16 become 60 on 4.
    # A prompt is admitted whole or not at all, so on average a sequence's worth of blocks stays free.
    usable = max(memory.blocks, capacity.usable_blocks - memory.blocks)
    full = min(capacity.state_slots, usable / memory.blocks) if memory.blocks else capacity.state_slots

    load = demand.forecast + demand.surprise
    text = f"{demand.now:.1f} slots due, {demand.forecast:.1f} in {spec.start_up_s:.0f} s"
    if demand.period_s:
        text += f" by the round of {demand.period_s:.0f} s"
    if demand.surprise > 0.05:
        text += f", {demand.surprise:.1f} kept for bursts as seen"
    if demand.now > demand.forecast + BURST_SIGMAS * sqrt(max(demand.forecast, 1.0)) and demand.now > load:
        # Eight requests at once on an idle service, or five times the rate: no trend will say so for two minutes.
        load = demand.now
        text = f"burst: {demand.now:.1f} slots due where {demand.forecast:.1f} were forecast"
    waiting = seen.queued + sum(reading.waiting for reading in seen.readings)
    if waiting:
        # What waits is to be gone when a replica that is asked for now is ready: to clear it sooner is not possible,
        # and a slot for each of 500 that wait would be a fleet that has nothing to do a minute later.
        load += waiting * memory.service_s / max(memory.service_s, spec.start_up_s)
        text += f", {waiting} waiting"
    rate = load / memory.service_s if memory.service_s else 0.0
    spare = spare_servers(load, memory.service_s, wait_s, miss)
    load *= memory.pace.slowdown(full * load / (load + spare), memory.fullness) if load else 1.0
    spare = spare_servers(load, memory.service_s, wait_s, miss)
    slots = load + spare
    backlog = sum(reading.prefill_backlog for reading in seen.readings)
    # Uneven prompts queue like fewer, longer ones (Pollaczek and Khinchine): their mean is weighted by their length.
    uneven_s = memory.prompt_square / memory.prompt / capacity.prefill_tokens_per_s if memory.prompt else 0.0
    prefill_s = _prefill(rate * work_s, uneven_s, wait_s, seen, spec, memory)
    limits = ScalingLimits(
        state_slots=slots / capacity.state_slots,
        kv_blocks=slots * memory.blocks / usable,
        prefill=prefill_s,
    )
    if not memory.service_s:
        # Too few have finished: count who is there, and what they wait for.
        limits = replace(
            limits,
            state_slots=present / capacity.state_slots,
            prefill=backlog / capacity.prefill_tokens_per_s / spec.ttft_s,
        )
    unit = {
        "state slots": f"{capacity.state_slots} slots a replica",
        "KV blocks": f"{memory.blocks:.1f} of {capacity.usable_blocks} blocks a sequence",
        "prefill tokens": f"{rate * memory.prompt:,.0f} prompt tokens/s",
    }[limits.binding]
    return limits, f"{text}, {spare:.1f} spare; {limits.binding} bind: {unit}"


def _prefill(work: float, job_s: float, wait_s: float, seen: FleetMetrics, spec: ScalingSpec, memory: Memory) -> float:
    """Replicas that `work` seconds of prompts a second need, so that neither prompts nor answers wait too long."""
    miss = 1 - spec.attainment
    alone = work / highest_utilization(job_s, wait_s, miss)
    if alone > 1:
        # Two may be chosen between, and then few wait behind two: one replica is as many as its queue allows.
        shared = max(
            work / highest_utilization_of_two(job_s, wait_s, miss), work + spare_for_prompts(job_s, wait_s, miss)
        )
        alone = min(alone, max(shared, 1.01))
    if spec.inter_token_s is None or not memory.pace.weight or not seen.readings:
        return alone
    # An answer is slowed down by the prompts that are computed while it lasts.
    pace_s = memory.pace.seconds / memory.pace.weight
    step_s = pace_s * max(0.1, 1 - work / len(seen.readings))
    during_s = memory.output * spec.inter_token_s
    share = highest_share(job_s, during_s - memory.output * step_s, during_s, miss)
    return max(alone, work / share)


def _idle(seen: FleetMetrics, spec: ScalingSpec, busy_at: float) -> tuple[int, str]:
    idle = seen.now - busy_at
    if spec.min_replicas == 0 and (idle >= spec.idle_s or not seen.target):
        return 0, f"no request for {idle:.0f} s"
    return 1, f"idle for {idle:.0f} s"


def _bounded(
    seen: FleetMetrics, spec: ScalingSpec, wanted: int, why: str, limits: ScalingLimits, state: PolicyState
) -> Decision:
    """Rate limits, then bounds: bounds are the operator's word and hold even when they jump."""
    count = wanted
    if count > seen.target:
        # From zero there is nothing to multiply: a first decision may ask for as many as one replica would.
        highest = max(1, seen.ready, ceil(seen.target / 2)) * spec.max_up_factor
        count = min(count, max(seen.target, int(highest)))
    elif count < seen.target:
        count = max(count, seen.target - max(1, int(seen.target * spec.max_down_share)))
    if count != wanted:
        why += f"; {wanted} limited to {count} in one step"
    bounded = min(max(count, spec.min_replicas), spec.max_replicas)
    if bounded != count:
        why += f"; {count} is outside {spec.min_replicas} to {spec.max_replicas}"
    return Decision(bounded, why, limits, state)
