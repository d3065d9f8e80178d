"""Computes the number of replicas from the metrics of all replicas.

`compute_replicas` is pure: the clock is in the metrics, and what it remembers is in the state, which comes back in the
decision. It runs unchanged in Ray Serve's control loop and in the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import ceil, hypot, sqrt

from hybridserve.autoscaling.forecast import CONFIDENCE_SIGMAS, Demand, Memory, update
from hybridserve.autoscaling.queueing import (
    highest_share,
    highest_utilization,
    highest_utilization_of_two,
    spare_for_prompts,
    spare_servers,
)
from hybridserve.autoscaling.replica_metrics import FleetMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.units import counted

# Demand this many standard deviations above the forecast is not chance (1 in 30,000) and does not wait for a trend.
BURST_SIGMAS = 4.0
# Scale-down waits until nothing has required more for this many start-up times: traffic whose rate changes within
# minutes returns.
HOLD_START_UPS = 2.0
# After a peak that the seasonal model saw end, nothing will require the replicas again: only chance is waited for.
HOLD_AFTER_SEASONAL_PEAK = 0.25


class Cause(StrEnum):
    """What determined a decision: the value of the metric label `cause`."""

    STATE_SLOTS = "state_slots"
    KV_BLOCKS = "kv_blocks"
    PREFILL = "prefill"
    BURST = "burst"
    IDLE = "idle"
    NO_METRICS = "no_metrics"
    MISSING_METRICS = "missing_metrics"
    CONTROLLER_RESTART = "controller_restart"
    DRAINING = "draining"
    STARTING = "starting"
    RECENT_PEAK = "recent_peak"
    RATE_LIMIT = "rate_limit"
    REPLICA_LIMIT = "replica_limit"


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What one decision leaves to the next.

    Attributes:
        memory: of demand.
        wanted: (time, replicas) of recent decisions before limits, the largest first: a sliding maximum.
        since: time of the first decision; None before it.
        busy_at: when there was last any request.
    """

    memory: Memory = field(default_factory=Memory)
    wanted: tuple[tuple[float, int], ...] = ()
    since: float | None = None
    busy_at: float = 0.0


@dataclass(frozen=True, slots=True)
class RequiredReplicas:
    """Replicas that the demand for each resource requires, as fractions. The largest counts."""

    state_slots: float = 0.0
    kv_blocks: float = 0.0
    prefill: float = 0.0

    @property
    def scarcest(self) -> Cause:
        """The resource that requires most replicas."""
        required = {
            Cause.STATE_SLOTS: self.state_slots,
            Cause.KV_BLOCKS: self.kv_blocks,
            Cause.PREFILL: self.prefill,
        }
        return max(required, key=lambda cause: required[cause])

    @property
    def replicas(self) -> int:
        """The whole number of replicas; 3.0000001 replicas are 3."""
        return ceil(max(self.state_slots, self.kv_blocks, self.prefill) - 1e-6)


@dataclass(frozen=True, slots=True)
class Decision:
    """The number of replicas, with its cause and the same in a sentence."""

    replicas: int
    cause: Cause
    reason: str
    required: RequiredReplicas
    state: PolicyState


def compute_replicas(fleet: FleetMetrics, spec: ScalingSpec, state: PolicyState) -> Decision:
    """Decide the number of replicas.

    The result is always within the limits of the spec, changes no faster than the rate limits, and is never lower than
    the target while metrics of a replica are missing.
    """
    fresh = tuple(replica for replica in fleet.replicas if replica.age_s <= spec.stale_s)
    missing = fleet.ready - len(fresh)
    fleet = replace(fleet, replicas=fresh)
    required = RequiredReplicas()
    if state.since is None:
        state = replace(state, since=fleet.now, busy_at=fleet.now)

    def decide(replicas: int, cause: Cause, reason: str) -> Decision:
        return _limited(fleet, spec, Decision(replicas, cause, reason, required, state))

    if fleet.ready and not fresh:
        # The memory is not updated either: a gap in the metrics would look like a lull to every forecast.
        return decide(fleet.target, Cause.NO_METRICS, f"no metrics from any of {counted(fleet.ready, 'replica')}")
    memory, demand = update(state.memory, fleet, spec)
    present = fleet.queued + sum(replica.running + replica.waiting for replica in fresh)
    state = replace(state, memory=memory, busy_at=fleet.now if present else state.busy_at)

    required, cause, reason = _required(demand, present, fleet, spec, memory)
    wanted = required.replicas
    if present or demand.now > 0:
        wanted = max(wanted, 1)
    elif wanted <= 1:
        idle_s = fleet.now - state.busy_at
        to_zero = spec.min_replicas == 0 and (idle_s >= spec.idle_s or not fleet.target)
        wanted, cause, reason = 0 if to_zero else 1, Cause.IDLE, f"no request for {idle_s:.0f} s"

    # A replica that is removed and then needed again costs its start-up, and users wait for it.
    hold_s = (HOLD_AFTER_SEASONAL_PEAK if demand.peak_over else HOLD_START_UPS) * spec.start_up_s
    higher = tuple((at, count) for at, count in state.wanted if at > fleet.now - hold_s and count > wanted)
    state = replace(state, wanted=(*higher, (fleet.now, wanted)))
    if wanted >= fleet.target:
        return decide(wanted, cause, reason)
    if missing > 0:
        return decide(
            fleet.target, Cause.MISSING_METRICS, f"no metrics from {missing} of {counted(fleet.ready, 'replica')}"
        )
    if state.since is not None and fleet.now - state.since < HOLD_START_UPS * spec.start_up_s:
        # A restarted controller has no history: an earlier one had reasons for the replicas that run.
        age_s = fleet.now - state.since
        return decide(fleet.target, Cause.CONTROLLER_RESTART, f"controller started {age_s:.0f} s ago: no scale-down")
    if fleet.draining:
        # Whether the replicas that still drain are missed shows only when they are gone.
        return decide(
            fleet.target, Cause.DRAINING, f"still draining: {counted(fleet.draining, 'replica')}; no scale-down"
        )
    waiting = _waiting(fleet)
    starting = fleet.target - fleet.ready
    if waiting and starting > 0:
        # Clients that wait for answers send no more, so demand looks low until the replicas they wait for have started,
        # however long that takes. With no request waiting, replicas that never start do not prevent a scale-down.
        reason = f"{waiting} requests wait and {starting} replicas are still starting: no scale-down"
        return decide(fleet.target, Cause.STARTING, reason)
    if higher and higher[0][1] >= fleet.target:
        at, count = higher[0]
        reason = f"{count} replicas were needed {fleet.now - at:.0f} s ago: no scale-down"
        return decide(fleet.target, Cause.RECENT_PEAK, reason)
    return decide(max(wanted, higher[0][1] if higher else 0), cause, reason)


def _waiting(fleet: FleetMetrics) -> int:
    """Requests that wait, at a replica or for one."""
    return fleet.queued + sum(replica.waiting for replica in fleet.replicas)


def _required(
    demand: Demand, present: int, fleet: FleetMetrics, spec: ScalingSpec, memory: Memory
) -> tuple[RequiredReplicas, Cause, str]:
    """Replicas by resource, with the cause and the sentence."""
    capacity = spec.capacity
    work_s = memory.prompt / capacity.prefill_tokens_per_s
    wait_s = max(0.0, spec.ttft_s + spec.ttft_per_prompt_token_s * memory.prompt - work_s)
    miss = 1 - spec.attainment
    # Fewer replicas are fuller, and a fuller replica is slower: 55 busy slots on 5 replicas of 16 become 60 on 4.
    # A prompt is admitted as a whole or not at all, so on average a sequence's worth of blocks stays free.
    usable = max(memory.blocks, capacity.usable_blocks - memory.blocks)
    full = min(capacity.state_slots, usable / memory.blocks) if memory.blocks else capacity.state_slots

    load = demand.forecast + demand.burst_reserve
    burst = False
    reason = f"{demand.now:.1f} slots needed, {demand.forecast:.1f} forecast in {spec.start_up_s:.0f} s"
    if demand.period_s:
        reason += f" (period of {demand.period_s:.0f} s)"
    reason += f", the rate varies by {demand.rate_error:.0%}"
    if demand.burst_reserve > 0.05:
        reason += f", {demand.burst_reserve:.1f} reserved for bursts"
    if demand.now > demand.forecast + BURST_SIGMAS * sqrt(max(demand.forecast, 1.0)) and demand.now > load:
        # Eight requests at once on an idle service, or five times the rate: no trend would show it for two minutes.
        burst = True
        load = demand.now
        reason = f"burst: {demand.now:.1f} slots needed, {demand.forecast:.1f} forecast"
    waiting = _waiting(fleet)
    if waiting:
        # The queue should be empty when a replica requested now is ready: sooner is not possible, and a slot for each
        # of 500 waiting requests would be a fleet that has nothing to do a minute later.
        load += waiting * memory.service_s / max(memory.service_s, spec.start_up_s)
        reason += f", {waiting} waiting"
    rate = load / memory.service_s if memory.service_s else 0.0
    spare = spare_servers(load, memory.service_s, wait_s, miss)
    slower = memory.latency.slowdown(full * load / (load + spare), memory.fullness) if load else 1.0
    least = min(load, demand.forecast)
    load *= slower
    sigmas = 0.0 if burst else CONFIDENCE_SIGMAS  # a burst is counted, not forecast
    spare = hypot(spare_servers(load, memory.service_s, wait_s, miss), sigmas * demand.rate_error * load)
    slots = _with_factor(load + spare, least * slower, memory)
    if memory.service_s:
        # Uneven prompts queue like fewer, longer ones (Pollaczek and Khinchine): their mean is weighted by length.
        uneven_s = memory.prompt_square / memory.prompt / capacity.prefill_tokens_per_s if memory.prompt else 0.0
        # Chance and the error of the forecast are independent: their standard deviations add up as squares.
        work = rate * demand.prompt / capacity.prefill_tokens_per_s
        prefill = _required_for_prefill(work, uneven_s, wait_s, fleet, spec, memory)
        prefill = work + hypot(prefill - work, sigmas * demand.work_error * work)
        least_work = least / memory.service_s * demand.prompt / capacity.prefill_tokens_per_s
        prefill = _with_factor(prefill, least_work, memory)
        required = RequiredReplicas(
            state_slots=slots / capacity.state_slots,
            kv_blocks=slots * memory.blocks / usable,
            prefill=prefill,
        )
    else:  # too few requests have finished: count those that are present, and the prompts that wait
        backlog = sum(replica.prefill_backlog for replica in fleet.replicas)
        required = RequiredReplicas(
            state_slots=present / capacity.state_slots,
            kv_blocks=slots * memory.blocks / usable,
            prefill=backlog / capacity.prefill_tokens_per_s / spec.ttft_s,
        )
    resource = {
        Cause.STATE_SLOTS: f"state slots, {capacity.state_slots} per replica",
        Cause.KV_BLOCKS: f"KV blocks, {memory.blocks:.1f} of {capacity.usable_blocks} per sequence",
        Cause.PREFILL: f"prefill, {rate * memory.prompt:,.0f} prompt tokens/s",
    }[required.scarcest]
    cause = Cause.BURST if burst else required.scarcest
    reason += f", {spare:.1f} spare times {memory.spare.value:.2f}"
    if memory.spare.late_share is not None:
        reason += f" as {memory.spare.late_share:.1%} were late"
    return required, cause, f"{reason}; limited by {resource}"


def _with_factor(needed: float, forecast: float, memory: Memory) -> float:
    """What is needed when everything beyond the forecast is multiplied by the factor for spare capacity."""
    return forecast + memory.spare.value * (needed - forecast)


def _required_for_prefill(
    work: float, job_s: float, wait_s: float, fleet: FleetMetrics, spec: ScalingSpec, memory: Memory
) -> float:
    """Replicas that `work` seconds of prefill per second need, so that neither prompts nor answers wait too long."""
    miss = 1 - spec.attainment
    alone = work / highest_utilization(job_s, wait_s, miss)
    if alone > 1:
        # A router chooses between two replicas, and then few requests wait behind two others; one replica alone is
        # limited by its queue.
        shared = max(
            work / highest_utilization_of_two(job_s, wait_s, miss), work + spare_for_prompts(job_s, wait_s, miss)
        )
        alone = min(alone, max(shared, 1.01))
    if spec.inter_token_s is None or not memory.latency.weight or not fleet.replicas:
        return alone
    # An answer is slowed down by the prompts that are computed while it is generated.
    token_s = memory.latency.seconds / memory.latency.weight
    step_s = token_s * max(0.1, 1 - work / len(fleet.replicas))
    during_s = memory.output * spec.inter_token_s
    share = highest_share(job_s, during_s - memory.output * step_s, during_s, miss)
    return max(alone, work / share)


def _limited(fleet: FleetMetrics, spec: ScalingSpec, decision: Decision) -> Decision:
    """Apply the rate limits, then the replica limits: those always hold, even if that is a jump."""
    count, cause, reason = decision.replicas, decision.cause, decision.reason
    if count > fleet.target:
        # From zero there is nothing to multiply: a first decision may want as many as one replica would.
        highest = max(1, fleet.ready, ceil(fleet.target / 2)) * spec.max_up_factor
        count = min(count, max(fleet.target, int(highest)))
    elif count < fleet.target:
        count = max(count, fleet.target - max(1, int(fleet.target * spec.max_down_share)))
    if count != decision.replicas:
        cause = Cause.RATE_LIMIT
        reason += f"; {decision.replicas} reduced to {count} per decision"
    limited = min(max(count, spec.min_replicas), spec.max_replicas)
    if limited != count:
        cause = Cause.REPLICA_LIMIT
        reason += f"; {count} is outside the limits {spec.min_replicas} to {spec.max_replicas}"
    return replace(decision, replicas=limited, cause=cause, reason=reason)
