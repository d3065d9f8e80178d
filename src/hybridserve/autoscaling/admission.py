"""Admission: whether a new request would have its first token in time on this replica.

A request that waits longer than its target is lost for its user, takes a slot all the same, and delays those behind it.
Refused early, it can be sent again when a replica that the scaling policy requests now is ready.
"""

from __future__ import annotations

from hybridserve.autoscaling.forecast import REQUESTS_FOR_A_MEAN, REQUESTS_IN_A_MEAN
from hybridserve.autoscaling.replica_metrics import ReplicaMetrics
from hybridserve.autoscaling.spec import ScalingSpec


def expected_wait_s(replica: ReplicaMetrics, spec: ScalingSpec, holding_s: float) -> float:
    """Seconds until a new request on a replica starts.

    A replica that runs n sequences, each for `holding_s`, starts one every ``holding_s / n`` (Little, 1961). It waits
    for those ahead of it, or for their prompts if these take longer.

    Args:
        holding_s: mean time that a request occupies a slot.
    """
    capacity = spec.capacity
    full: float = capacity.state_slots
    if replica.blocks_used and replica.running:
        full = max(1.0, min(full, capacity.usable_blocks * replica.running / replica.blocks_used))
    ahead = max(0.0, replica.running + replica.waiting + 1 - full)
    prefill_s = replica.prefill_backlog / capacity.prefill_tokens_per_s
    return max(ahead * holding_s / full, prefill_s)


class Admission:
    """Decides on the requests of one replica. It learns how long requests occupy a slot, as the scaling policy does.

    Until some requests have finished, all are admitted.
    """

    def __init__(self, spec: ScalingSpec) -> None:
        self._spec = spec
        self._finished = 0
        self._slot_seconds = 0.0
        self._holding_s = 0.0

    def retry_after_s(self, replica: ReplicaMetrics, prompt: int) -> float | None:
        """None to admit a request; else seconds after which it should be sent again.

        That is when the queue is expected to be short enough, or when a replica requested now is ready.
        """
        new = replica.finished - self._finished
        if new > 0:
            share = new / (new + min(self._finished, REQUESTS_IN_A_MEAN))
            self._holding_s += share * ((replica.slot_seconds - self._slot_seconds) / new - self._holding_s)
            self._finished, self._slot_seconds = replica.finished, replica.slot_seconds
        if self._finished < REQUESTS_FOR_A_MEAN:
            return None
        spec = self._spec
        own_s = prompt / spec.capacity.prefill_tokens_per_s
        may_wait_s = spec.ttft_s + spec.ttft_per_prompt_token_s * prompt - own_s
        late_s = expected_wait_s(replica, spec, self._holding_s) - may_wait_s
        # A prompt that takes longer than the target is late on an idle replica too, and would be refused every time.
        return min(late_s, spec.start_up_s) if may_wait_s > 0 and late_s > 0 else None
