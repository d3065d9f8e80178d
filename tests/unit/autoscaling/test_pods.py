"""Which pods count as ready, missing, starting and draining; nothing is removed while some are unknown."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hybridserve.autoscaling.capacity import UNLIMITED_PREFILL, ReplicaCapacity
from hybridserve.autoscaling.pods import PodFleet, PodReport, decide_pods
from hybridserve.autoscaling.policy import Cause
from hybridserve.autoscaling.replica_metrics import ReplicaMetrics
from hybridserve.autoscaling.spec import ScalingSpec

SPEC = ScalingSpec(
    min_replicas=1,
    max_replicas=4,
    start_up_s=10.0,
    capacity=ReplicaCapacity(16, 166, 1312, 7, 1, UNLIMITED_PREFILL),
)
IDLE = PodReport(ReplicaMetrics(""))
FULL = PodReport(ReplicaMetrics("", running=16, waiting=100, blocks_used=128))
DRAINING = PodReport(ReplicaMetrics(""), draining=True)
INCOMPLETE = PodReport(None)
START_LIMIT_S = 60.0
Reports = Mapping[str, PodReport | None]


def look(*looks: tuple[float, Reports], spec: ScalingSpec = SPEC) -> tuple[object, ...]:
    """After all looks: pods that count as ready, with metrics, draining; and the target."""
    state = PodFleet()
    for now, reports in looks:
        fleet, _, state = decide_pods(now, reports, spec, state, START_LIMIT_S)
    return fleet.ready, len(fleet.replicas), fleet.draining, state.target


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(0.0, {"a": IDLE})], (1, 1, 0, 1)),
        ([(0.0, {"a": IDLE, "b": DRAINING})], (1, 1, 1, 1)),
        # A restarted controller takes the pods that exist as the target, those that do not answer included.
        ([(0.0, {"a": IDLE, "b": None, "c": None})], (3, 1, 0, 3)),
        ([(0.0, {"a": IDLE, "b": INCOMPLETE})], (2, 1, 0, 2)),
        ([(0.0, {"a": None, "b": None})], (2, 0, 0, 2)),
        ([(0.0, dict.fromkeys("abcdef", IDLE))], (6, 6, 0, 4)),
        # What did not answer at the first look stays missing.
        ([(0.0, {"a": IDLE, "b": None}), (2.0, {"a": IDLE, "b": None})], (2, 1, 0, 2)),
        # A later pod is starting, until its start takes too long.
        ([(0.0, {"a": IDLE}), (2.0, {"a": IDLE, "b": None})], (1, 1, 0, 1)),
        ([(0.0, {"a": IDLE}), (2.0, {"a": IDLE, "b": None}), (63.0, {"a": IDLE, "b": None})], (2, 1, 0, 1)),
        # A pod that reported once is never starting again.
        ([(0.0, {"a": IDLE, "b": IDLE}), (2.0, {"a": IDLE, "b": None})], (2, 2, 0, 2)),
        # With no answer at all, a new pod looks like one behind a blocked network.
        ([(0.0, {"a": IDLE}), (20.0, {"c": None})], (1, 0, 0, 1)),
    ],
)
def test_pods_are_classified(looks: list[tuple[float, Reports]], expected: tuple[int, ...]) -> None:
    assert look(*looks) == expected


def test_last_report_ages_until_it_is_stale() -> None:
    _, _, state = decide_pods(0.0, {"a": IDLE, "b": IDLE}, SPEC, PodFleet(), START_LIMIT_S)
    fleet, _, _ = decide_pods(4.0, {"a": IDLE, "b": None}, SPEC, state, START_LIMIT_S)
    assert {replica.replica: replica.age_s for replica in fleet.replicas} == {"a": 0.0, "b": 4.0}


@pytest.mark.parametrize(
    ("reports", "cause", "replicas"),
    [
        ({"a": IDLE, "b": None, "c": IDLE}, Cause.MISSING_METRICS, 3),
        ({"a": None, "b": None, "c": None}, Cause.NO_METRICS, 3),
        ({"a": IDLE, "b": IDLE, "c": DRAINING}, Cause.DRAINING, 3),
        ({"a": IDLE, "b": IDLE, "c": IDLE}, Cause.RATE_LIMIT, 2),
    ],
)
def test_nothing_is_removed_while_a_pod_is_unknown(reports: Reports, cause: Cause, replicas: int) -> None:
    state = PodFleet()
    for now in range(0, 40, 2):
        _, _, state = decide_pods(float(now), dict.fromkeys("abc", FULL if now == 0 else IDLE), SPEC, state, 60.0)
        state = PodFleet(3, state.pods, state.policy)
    _, decision, _ = decide_pods(60.0, reports, SPEC, state, START_LIMIT_S)
    assert (decision.cause, decision.replicas) == (cause, replicas)


def test_dry_run_keeps_the_pods_that_exist() -> None:
    dry = SPEC.model_copy(update={"dry_run": True})
    assert look((0.0, {"a": FULL}), spec=dry)[-1] == 1
    assert look((0.0, {"a": FULL}))[-1] == 4
    assert look((0.0, {"a": FULL}), (2.0, {"a": FULL, "b": FULL}), spec=dry)[-1] == 2
