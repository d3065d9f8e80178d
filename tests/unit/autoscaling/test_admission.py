"""Admission: which requests a replica refuses because they would be late, and what that does to a fleet."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import isnan

import pytest

from hybridserve.autoscaling.admission import Admission
from hybridserve.autoscaling.capacity import ReplicaCapacity
from hybridserve.autoscaling.replica_metrics import ReplicaMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.gateway.limits.late_requests import LateRequests
from hybridserve.settings.slo import LatencySLO
from hybridserve.simulator.fleet import FleetOptions
from hybridserve.simulator.replica import Replica
from hybridserve.simulator.service_times import load_service_times
from hybridserve.simulator.traffic import TRAFFIC_PATTERNS
from hybridserve.simulator.tune import Scenario, candidates
from support.fake_engine import request
from support.gateway_client import CHAT, assert_openai_error, gateway

CAPACITY = ReplicaCapacity(10, 100, 16, 2, 1, 1000.0)
SPEC = ScalingSpec(capacity=CAPACITY, start_up_s=60, ttft_s=2.0, ttft_per_prompt_token_s=0.002)
# Ten seconds in a slot each: ten slots start a request every second.
SEEN = ReplicaMetrics("a", arrived=100, finished=100, slot_seconds=1000.0)


@pytest.mark.parametrize(
    ("now", "prompt", "retry_after_s"),
    [
        ({}, 100, None),
        ({"running": 9}, 100, None),
        ({"running": 10, "waiting": 1}, 0, None),  # starts in 2 s
        ({"running": 10, "waiting": 3}, 0, 2.0),
        ({"running": 10, "waiting": 3}, 3000, None),  # may wait 2 + 6 s, of which its prompt takes 3
        ({"running": 10, "waiting": 500}, 0, 60.0),  # a new replica is ready sooner than the queue is gone
        ({"running": 5, "waiting": 1, "blocks_used": 100}, 0, 2.0),  # blocks for five sequences only
        ({"running": 5, "waiting": 2, "prefill_backlog": 5000}, 0, 3.0),  # 5 s of prompts are ahead of it
    ],
)
def test_requests_that_would_be_late_are_refused(now: dict[str, int], prompt: int, retry_after_s: float | None) -> None:
    wait = Admission(SPEC).retry_after_s(replace(SEEN, **now), prompt)
    assert wait == (None if retry_after_s is None else pytest.approx(retry_after_s))


def test_all_are_admitted_until_some_have_finished_and_where_waiting_is_not_the_cause() -> None:
    busy = {"running": 10, "waiting": 500}
    assert Admission(SPEC).retry_after_s(replace(SEEN, finished=3, slot_seconds=30.0, **busy), 0) is None
    slow = SPEC.model_copy(update={"ttft_per_prompt_token_s": 0.0})
    assert Admission(slow).retry_after_s(replace(SEEN, **busy), 5000) is None, "late on an idle replica too"


def test_gateway_refuses_with_retry_after_and_counts_demand() -> None:
    app = gateway()
    refused: list[int] = []
    metrics = [replace(SEEN, running=10, waiting=7)]
    app.state.late_requests = LateRequests(SPEC, lambda: metrics[0], lambda: refused.append(1))
    response = asyncio.run(request(app, "/v1/chat/completions", CHAT))
    assert_openai_error(response, 429, "rate_limit_exceeded")
    assert 5 <= int(response.headers["retry-after"]) <= 8
    assert len(refused) == 1
    assert app.state.metrics.requests_rejected.labels("chat", "late")._value.get() == 1
    assert app.state.limits.running == 0
    metrics[0] = SEEN
    assert asyncio.run(request(app, "/v1/chat/completions", CHAT)).status == 200


def test_simulated_replica_counts_refused_requests_as_the_engines_statistics_do() -> None:
    replica = Replica(load_service_times("nano-9b-a10g"), "r", 0.0)
    replica.refused = 2
    metrics = replica.metrics()
    assert (metrics.arrived, metrics.finished, metrics.late) == (2, 0, 2)


def test_refusals_keep_the_goal_of_the_admitted_in_a_flash_crowd() -> None:
    """A refused request counts as one that missed its goal, and as demand for the policy."""
    times = load_service_times("nano-9b-a10g")
    arrivals = [
        (at - 2400, *size) for at, *size in TRAFFIC_PATTERNS["flash-crowd"].arrivals(1, 0.3) if 2400 < at < 4200
    ]
    base = Scenario(arrivals, times, LatencySLO(2.0, 0.1, ttft_per_prompt_token_s=0.001), FleetOptions(initial=3))
    policy = next(candidates("hybrid", base))
    plain, admitting = (
        Scenario(arrivals, times, base.slo, FleetOptions(initial=3, admission=admission)).run(policy).score
        for admission in (None, base.spec())
    )
    assert plain.refused == 0
    assert plain.admitted_attainment == plain.attainment < 0.93
    assert 0 < admitting.refused < 0.1 * admitting.requests == 0.1 * plain.requests
    assert admitting.admitted_attainment > 0.96 > plain.attainment
    assert admitting.attainment > plain.attainment, "good requests over all requests, refused ones included"
    assert not isnan(admitting.ttft_p99)
