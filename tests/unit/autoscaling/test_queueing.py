"""The formulas, compared with exact ones and with simulated queues."""

from __future__ import annotations

import math
import random

import pytest

from hybridserve.autoscaling.queueing import (
    highest_share,
    highest_utilization,
    highest_utilization_of_two,
    spare_for_prompts,
    spare_servers,
)


def erlang_c(servers: int, load: float) -> float:
    """Exact share of requests that wait in M/M/s."""
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


@pytest.mark.parametrize("load", [10.0, 50.0, 200.0, 2000.0])
@pytest.mark.parametrize("wait_s", [0.0, 2.0])
def test_spare_servers_meet_the_goal_of_the_exact_formula(load: float, wait_s: float) -> None:
    service_s, miss = 13.0, 0.01
    servers = math.ceil(load + spare_servers(load, service_s, wait_s, miss))
    late = erlang_c(servers, load) * math.exp(-(servers - load) * wait_s / service_s)
    assert late <= miss * (1.05 + 3 / math.sqrt(load))  # 1.41 at 50 slots, and less with more
    fewer = servers - max(2, round(0.3 * math.sqrt(load)))
    assert erlang_c(fewer, load) * math.exp(-(fewer - load) * wait_s / service_s) > miss


def test_spare_servers_grow_with_load_and_goal() -> None:
    assert spare_servers(0.0, 13.0, 2.0, 0.01) == 0
    assert spare_servers(100.0, 13.0, 2.0, 0.01) < spare_servers(200.0, 13.0, 2.0, 0.01)
    assert spare_servers(100.0, 13.0, 2.0, 0.01) < spare_servers(100.0, 13.0, 0.0, 0.01)
    assert spare_servers(100.0, 13.0, 2.0, 0.05) < spare_servers(100.0, 13.0, 2.0, 0.001)


def test_highest_utilization_meets_the_goal_in_a_simulated_queue() -> None:
    rho = highest_utilization(1.0, 4.0, 0.01)
    source, now, free, late, jobs = random.Random(1), 0.0, 0.0, 0, 100_000
    for _ in range(jobs):
        now += source.expovariate(rho)
        start = max(now, free)
        late += start - now > 4.0
        free = start + 1.0
    assert late / jobs < 0.013
    assert rho > 0.5


def test_no_work_is_no_limit() -> None:
    assert highest_utilization_of_two(0.0, 0.0, 0.01) == 1.0
    assert spare_for_prompts(0.0, 0.0, 0.01) == 0.0
    assert highest_utilization(0.0, 2.0, 0.01) == 1.0
    assert highest_utilization(10.0, 0.0, 0.01) == pytest.approx(0.05)


@pytest.mark.parametrize("servers", [4, 20])
def test_choice_of_two_meets_the_goal_in_a_simulated_queue(servers: int) -> None:
    """A router that chooses between two servers, at the utilization that the formulas allow."""
    source = random.Random(3)
    work_s, wait_s, miss = 1.0, 3.0, 0.01
    rho = min(highest_utilization_of_two(work_s, wait_s, miss), 1 - spare_for_prompts(work_s, wait_s, miss) / servers)
    free_at = [0.0] * servers
    now, late, count = 0.0, 0, 60_000
    for _ in range(count):
        now += source.expovariate(rho * servers / work_s)
        one, other = source.sample(range(servers), 2)
        chosen = one if free_at[one] <= free_at[other] else other
        wait = max(0.0, free_at[chosen] - now)
        late += wait > wait_s
        free_at[chosen] = now + wait + work_s
    assert late / count <= 1.2 * miss
    assert rho > highest_utilization(work_s, wait_s, miss)


def test_prefill_share_follows_the_spare_time_of_answers() -> None:
    """Answers of 10 s that may wait for 5 s: at most half of the time, less for longer prompts."""
    assert highest_share(0.001, 5.0, 10.0, 0.01) == pytest.approx(0.5, abs=0.02)
    assert highest_share(2.0, 5.0, 10.0, 0.01) < highest_share(0.5, 5.0, 10.0, 0.01)
    assert highest_share(0.0, 5.0, 10.0, 0.01) == 1.0
    assert highest_share(1.0, -1.0, 10.0, 0.01) == 0.05
