"""The input of the scaling policy: the metrics of each replica, and the requests that wait outside of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class ReplicaMetrics:
    """The engine of one replica, as it last reported.

    Attributes:
        replica: id of the replica.
        age_s: seconds since the report.
        running: sequences that occupy a state slot, those in prefill included.
        waiting: requests that wait for a slot, blocks or the token budget.
        deferred: requests that wait for something that another replica would not give (a grammar, a transfer).
        blocks_used: KV-cache blocks in use, state blocks included.
        state_blocks_used: of these, the blocks with states.
        prefill_backlog: prompt tokens not yet computed, of waiting requests and of those in prefill.
        preemptions: sequences preempted since the engine started.
        arrived, finished: requests since the engine started.
        prompt_tokens: of all requests that finished, since the engine started.
        prompt_squares: sum of the squares of their prompt lengths, for the variance.
        generated: output tokens since the engine started.
        slot_seconds: sum over finished requests of the time that they occupied a slot.
        late: finished requests that missed a target, except where no other replica would have been faster, and those
            that were refused because they would have.
    """

    replica: str
    age_s: float = 0.0
    running: int = 0
    waiting: int = 0
    deferred: int = 0
    blocks_used: int = 0
    state_blocks_used: int = 0
    prefill_backlog: int = 0
    preemptions: int = 0
    arrived: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    prompt_squares: float = 0.0
    generated: int = 0
    slot_seconds: float = 0.0
    late: int = 0

    def numbers(self) -> dict[str, int | float]:
        """Everything but the id, as the flat dict of numbers that Ray Serve accepts."""
        return {name: value for name, value in asdict(self).items() if name != "replica"}


# Prefix of these numbers in Ray Serve's autoscaling statistics, beside Ray's own.
PREFIX = "hybridserve_"
FIELDS = tuple(field.name for field in fields(ReplicaMetrics) if field.name != "replica")


def metrics_from_numbers(replica: str, numbers: dict[str, Any]) -> ReplicaMetrics | None:
    """The metrics of a replica, or None if the report is incomplete (an older version, a half-filled report)."""
    if not set(FIELDS) <= numbers.keys():
        return None
    floats = ("age_s", "slot_seconds", "prompt_squares")
    values: dict[str, Any] = {name: float(numbers[name]) if name in floats else int(numbers[name]) for name in FIELDS}
    return ReplicaMetrics(replica, **values)


@dataclass(frozen=True, slots=True)
class FleetMetrics:
    """The deployment at one moment.

    Attributes:
        now: seconds on any clock that only moves forward.
        target: replicas last requested.
        ready: replicas that accept requests.
        queued: requests that no replica has accepted yet: all of them, if there is no replica.
        draining: replicas that are stopping and still have streams.
        replicas: metrics of ready replicas. If there are fewer than `ready`, metrics are missing.
    """

    now: float
    target: int
    ready: int
    queued: int = 0
    draining: int = 0
    replicas: tuple[ReplicaMetrics, ...] = ()
