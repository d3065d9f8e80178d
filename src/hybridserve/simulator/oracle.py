"""A schedule that knows the whole workload: a lower bound of the cost of any policy.

It computes the need of every second, starts each replica one start-up time earlier, and stops it immediately, unless it
is needed again before a restart pays off. The packing of replicas is found by search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from hybridserve.simulator.fleet import View
from hybridserve.simulator.service_times import ServiceTimes
from hybridserve.simulator.traffic import Arrival


@dataclass
class Schedule:
    """The number of replicas in each second."""

    replicas: Sequence[int]
    name: str = "oracle"

    def target(self, view: View) -> int:
        return self.replicas[min(int(view.metrics.now), len(self.replicas) - 1)]


def needs(arrivals: Sequence[Arrival], times: ServiceTimes) -> list[float]:
    """Replicas that a workload uses in each second, as fractions, without a queue.

    The duration of a request is that on a replica with nearly all slots in use, as in a tight schedule.
    """
    capacity = times.capacity()
    end = int(arrivals[-1][0]) + 2
    slots, blocks, work = [0.0] * (end + 1), [0.0] * (end + 1), [0.0] * (end + 1)
    mean_length = sum(prompt + output / 2 for _, prompt, output in arrivals) / len(arrivals)
    sequences = min(capacity.state_slots, capacity.usable_blocks / capacity.blocks(mean_length))
    step = times.step.seconds(sequences, sequences * mean_length)
    for at, prompt, output in arrivals:
        prefill = prompt * times.step.per_prompt_token_s
        # During its decode the replica also computes the prompts of the other slots.
        stay = prefill + output * step + sequences * prefill
        held = capacity.blocks(prompt + output)
        first, last = int(at), min(int(at + stay) + 1, end)
        slots[first] += 1
        slots[last] -= 1
        blocks[first] += held
        blocks[last] -= held
        work[first] += prefill
    slots, blocks = list(accumulate(slots)), list(accumulate(blocks))
    return [
        max(slot / capacity.state_slots, block / capacity.usable_blocks, prefill)
        for slot, block, prefill in zip(slots, blocks, _mean(work, 10), strict=True)
    ]


def schedule(need: Sequence[float], start_up_s: float, packing: float, window_s: int) -> Schedule:
    """Replicas for each second.

    Args:
        packing: share of a replica that may be in use.
        window_s: seconds over which the need is averaged; shorter peaks wait in the queue.
    """
    wanted = [max(1, ceil(value / packing - 1e-9)) for value in _mean(need, window_s)]
    lead = int(start_up_s) + 1
    total = [0] * len(wanted)
    for level in range(1, max(wanted) + 1):
        busy = [second for second, count in enumerate(wanted) if count >= level]
        start = before = busy[0]
        for second in [*busy[1:], None]:
            # A shorter gap costs less than the start-up of a new replica.
            if second is not None and second - before <= lead:
                before = second
                continue
            for covered in range(max(0, start - lead), before + 1):
                total[covered] += 1
            if second is not None:
                start = before = second
    return Schedule(total)


def _mean(values: Sequence[float], window: int) -> list[float]:
    """Centered moving mean."""
    if window <= 1:
        return list(values)
    sums = [0.0, *accumulate(values)]
    half, count = window // 2, len(values)
    return [
        (sums[min(count, index + half + 1)] - sums[max(0, index - half)])
        / (min(count, index + half + 1) - max(0, index - half))
        for index in range(count)
    ]
