"""The simulator against a step-by-step scheduler, invariants, and invalid input."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridserve.autoscaling.replica_metrics import FleetMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.errors import ConfigError
from hybridserve.planning.cache.reuse import CacheGrid, chunk_ends
from hybridserve.simulator.fleet import FleetOptions, Run, View, simulate, upper_quantile
from hybridserve.simulator.oracle import needs, schedule
from hybridserve.simulator.policies import Fixed, HybridServePolicy, KedaWaiting, KnativeConcurrency, RayQueueLength
from hybridserve.simulator.replica import Replica, SimulatedRequest
from hybridserve.simulator.score import DEFAULT_SLO, score
from hybridserve.simulator.service_times import ServiceTimes, built_in, load_service_times, parse_service_times
from hybridserve.simulator.traffic import TRAFFIC_PATTERNS, parse_trace, read_trace
from hybridserve.simulator.tune import POLICIES, Scenario, candidates, cheapest, tune

TEXT = """
name: test
kind: measured
source: made up
step: {fixed_s: 0.01, per_sequence_s: 0.001, per_context_token_s: 1.0e-6, per_prompt_token_s: 0.0001}
engine: {max_num_seqs: 4, max_num_batched_tokens: 64, align_prefill: false}
cache: {usable_blocks: 40, block_size: 16, state_blocks: 2, growing_groups: 1}
start_up_s: 20
"""
TIMES = parse_service_times(TEXT, "test")
ALIGNED = TIMES.model_copy(update={"engine": TIMES.engine.model_copy(update={"align_prefill": True})})
FINE = TIMES.model_copy(update={"engine": ALIGNED.engine.model_copy(update={"prefix_match_unit": 4})})


def step_by_step(times: ServiceTimes, arrivals: list[tuple[float, int, int]]) -> list[tuple[float, float]]:
    """A slow reference: every step is simulated and every quantity recounted. Returns first and last token times."""
    assert times.cache is not None
    cache, engine = times.cache, times.engine

    class Sequence:
        def __init__(self, index: int, at: float, prompt: int, output: int) -> None:
            self.index, self.at, self.prompt, self.output = index, at, prompt, output
            self.generated, self.computed, self.blocks = 0, 0, 0
            self.target = prompt  # tokens to prefill
            self.first = self.last = math.nan

    def blocks(tokens: int) -> int:
        return cache.state_blocks + cache.growing_groups * -(-tokens // cache.block_size)

    def aligned(start: int, end: int, target: int) -> int:
        """Tokens of a chunk that ends at whole blocks, at the last of them, and at the last unit."""
        if end < target:
            end = end // cache.block_size * cache.block_size
        for size in (cache.block_size, engine.prefix_match_unit):
            if size and engine.prefix_match_unit and start < target // size * size < end:
                return target // size * size - start
        return end - start

    def wish(one: Sequence, left: int) -> int:
        whole = one.target - one.computed
        return aligned(one.computed, one.computed + min(whole, left), one.target) if engine.prefix_match_unit else whole

    todo = [Sequence(i, *a) for i, a in enumerate(arrivals)]
    everyone = list(todo)
    waiting: list[Sequence] = []
    running: list[Sequence] = []
    free, now = cache.usable_blocks, 0.0
    while todo or waiting or running:
        if not waiting and not running:
            now = max(now, todo[0].at)
        while todo and todo[0].at <= now:
            waiting.append(todo.pop(0))
        decoding = [s for s in running if s.computed >= s.target]
        budget = engine.max_num_batched_tokens - len(decoding)
        left = budget
        for one in [s for s in running if s.computed < s.target]:
            left -= wish(one, left)
        while waiting and left > 0 and len(running) < engine.max_num_seqs:
            one = waiting[0]
            if blocks(one.target) > free:
                break
            waiting.pop(0)
            one.blocks = blocks(one.target)
            free -= one.blocks
            left -= wish(one, left)
            running.append(one)
        computed, finished = 0, []
        for one in [s for s in running if s.computed < s.target]:
            chunk = min(one.target - one.computed, budget)
            if engine.align_prefill:
                chunk = aligned(one.computed, one.computed + chunk, one.target)
            if chunk <= 0:
                break
            one.computed += chunk
            budget -= chunk
            computed += chunk
            if one.computed == one.target:
                finished.append(one)
            elif not engine.prefix_match_unit:
                break
        context = sum(s.prompt + s.generated - 1 for s in decoding)
        now += times.step.seconds(len(decoding) + len(finished), context, computed)
        for one in decoding:
            one.generated += 1
        for one in finished:
            one.generated += 1
            if math.isnan(one.first):
                one.first = now
        for one in [s for s in running if s.generated >= s.output and s.computed >= s.target]:
            one.last = now
            free += one.blocks
            running.remove(one)
        for one in decoding:
            if one not in running or one.generated >= one.output:
                continue
            if blocks(one.prompt + one.generated - 1) > one.blocks:
                while free < cache.growing_groups and one in running:
                    victim = running.pop()
                    free += victim.blocks
                    victim.blocks = victim.computed = 0
                    victim.target = victim.prompt + victim.generated
                    waiting.insert(0, victim)
                if one in running:
                    one.blocks += cache.growing_groups
                    free -= cache.growing_groups
    return [(s.first, s.last) for s in everyone]


@st.composite
def traffic(draw: st.DrawFn) -> list[tuple[float, int, int]]:
    source = random.Random(draw(st.integers(0, 10**6)))
    pace = draw(st.sampled_from([0.02, 0.2, 1.0]))
    now, found = 0.0, []
    for _ in range(draw(st.integers(1, 40))):
        now += source.expovariate(1 / pace)
        found.append((now, source.randint(1, 200), source.randint(1, 120)))
    return found


def run_one(
    arrivals: list[tuple[float, int, int]], times: ServiceTimes = TIMES
) -> tuple[Replica, list[SimulatedRequest]]:
    replica = Replica(times, "r", 0.0)
    requests = [SimulatedRequest(*arrival) for arrival in arrivals]
    for request in requests:
        replica.advance(request.arrived)
        replica.push(request, request.arrived)
    replica.advance(1e7)
    return replica, requests


@settings(max_examples=60, deadline=None)
@given(traffic(), st.sampled_from([TIMES, ALIGNED, FINE]))
def test_closed_form_equals_step_by_step(arrivals: list[tuple[float, int, int]], times: ServiceTimes) -> None:
    """With enough blocks both make the same decisions, and times agree to rounding."""
    large_cache = times.model_copy(update={"cache": TIMES.cache.model_copy(update={"usable_blocks": 400})})  # type: ignore[union-attr]
    _, requests = run_one(arrivals, large_cache)
    for request, (first, last) in zip(requests, step_by_step(large_cache, arrivals), strict=True):
        assert request.first == pytest.approx(first, abs=1e-6)
        assert request.last == pytest.approx(last, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(traffic())
def test_preemption_keeps_every_request(arrivals: list[tuple[float, int, int]]) -> None:
    replica, requests = run_one(arrivals)
    assert all(request.first <= request.last for request in requests)
    assert replica.blocks_free == replica.blocks_total
    assert replica.ongoing == replica.decoding == replica.context == replica.backlog == 0
    preempted = replica.preemptions
    assert replica.generated >= sum(request.output for request in requests)
    slow = step_by_step(TIMES, arrivals)
    if not preempted:
        assert [r.last for r in requests] == pytest.approx([last for _, last in slow], abs=1e-6)
    else:
        # The order of block allocations within a step differs, the work does not.
        assert max(r.last for r in requests) == pytest.approx(max(last for _, last in slow), rel=0.15)


def test_preempted_requests_are_recomputed() -> None:
    replica, requests = run_one([(0.0, 100, 120), (0.0, 100, 120), (0.0, 100, 120), (0.0, 100, 120)])
    assert replica.preemptions > 0
    assert all(request.output == 120 and request.last > request.first for request in requests)


def test_one_request_by_hand() -> None:
    _, (request,) = run_one([(5.0, 100, 3)])
    # Chunks of 64 and 36 tokens, then two tokens at context 100 and 101.
    first = 5.0 + (0.01 + 64e-4) + (0.01 + 0.001 + 36e-4)
    assert request.first == pytest.approx(first)
    assert request.last == pytest.approx(first + (0.011 + 100e-6) + (0.011 + 101e-6))


def test_aligned_chunks_wait_for_a_whole_block() -> None:
    # 70 tokens: 64 then 6. With one sequence decoding the budget is 63, and the first chunk is cut to 48.
    _, (_, late) = run_one([(0.0, 16, 100), (0.5, 70, 1)], ALIGNED)
    _, (_, free) = run_one([(0.0, 16, 100), (0.5, 70, 1)], TIMES)
    assert late.first > 0.5
    assert late.first == pytest.approx(free.first, rel=0.2)


@given(st.integers(1, 400))
def test_a_prompt_takes_the_steps_that_the_planner_has_for_it(prompt: int) -> None:
    _, (request,) = run_one([(0.0, prompt, 1)], FINE)
    ends, _ = chunk_ends(CacheGrid(16, 4, 16, 64, 1, 2, 40), prompt, 0, 0)
    assert request.first == pytest.approx(len(ends) * 0.01 + 0.001 + prompt * 1e-4)


def fleet(policy: object, output: int = 40, **options: object) -> Run:
    arrivals = [(index * 0.5, 50, output) for index in range(400)]
    return simulate(arrivals, TIMES, policy, FleetOptions(**({"max_replicas": 9, "initial": 2} | options)))  # type: ignore[arg-type]


class Scripted:
    """A policy from a function of the fleet's metrics."""

    name = "scripted"

    def __init__(self, replicas: Callable[[FleetMetrics], int]) -> None:
        self._replicas = replicas

    def target(self, view: View) -> int:
        return self._replicas(view.metrics)


def test_draining_replicas_finish_streams_and_cost_time() -> None:
    halve = Scripted(lambda metrics: 2 if metrics.now < 100 else 1)
    run = fleet(halve, output=300)
    assert all(request.last > 0 for request in run.requests)
    assert run.replica_seconds >= 100 * 2 + 99
    cut = fleet(halve, output=300, drain_timeout_s=0.0)
    assert score(cut, DEFAULT_SLO, 0.0).cut > 0


def test_scale_from_zero_waits_for_the_start_up() -> None:
    run = fleet(Scripted(lambda metrics: 1 if metrics.queued else metrics.target), min_replicas=0, initial=0)
    assert run.requests[0].first >= TIMES.start_up_s
    assert all(request.last > 0 for request in run.requests)


@pytest.mark.parametrize(
    ("standby", "first_s", "price", "paid"), [(0, 20, 1.0, 60), (1, 2, 1.0, 120), (1, 2, 0.5, 100)]
)
def test_standby_replicas_take_over_and_are_paid(standby: int, first_s: float, price: float, paid: float) -> None:
    """One request each 10 s for a minute, scaled from zero; the standby replica's successor starts for 20 s."""
    arrivals = [(0.5 + 10 * index, 8, 1) for index in range(7)]
    options = FleetOptions(min_replicas=0, initial=0, standby=standby, standby_s=2.0, standby_price=price)
    run = simulate(arrivals, TIMES, Fixed(1), options)
    assert run.requests[0].ttft == pytest.approx(first_s, abs=1.2)
    assert run.replica_seconds == pytest.approx(paid, abs=2)


def test_bounds_limit_every_policy() -> None:
    assert max(count for _, count in fleet(Scripted(lambda _: 10**6)).targets) == 9


def test_quantile_definition_of_the_published_results() -> None:
    assert [upper_quantile(list(range(100)), fraction) for fraction in (0.0, 0.5, 0.99, 1.0)] == [0, 50, 99, 99]


def test_router_limit_changes_little() -> None:
    free, held = fleet(Fixed(2)), fleet(Fixed(2), max_ongoing=4)
    mean = [sum(r.first - r.arrived for r in run.requests) / len(run.requests) for run in (free, held)]
    assert mean[1] == pytest.approx(mean[0], rel=0.5)


def test_same_seed_same_run() -> None:
    policies = [
        HybridServePolicy(ScalingSpec(capacity=TIMES.capacity(), max_replicas=9, start_up_s=20.0)) for _ in range(2)
    ]
    runs = [fleet(policy) for policy in policies]
    assert runs[0].targets == runs[1].targets
    assert [r.last for r in runs[0].requests] == [r.last for r in runs[1].requests]


def test_oracle_is_cheaper_than_a_fixed_number() -> None:
    times = load_service_times("nano-9b-a10g")
    arrivals = [one for one in TRAFFIC_PATTERNS["square"].arrivals(scale=0.2) if one[0] < 4000]
    scenario = Scenario(arrivals, times, DEFAULT_SLO, FleetOptions(max_replicas=20, initial=2))
    oracle = cheapest(tune("oracle", scenario), 0.99)
    fixed = cheapest(tune("fixed", scenario), 0.99)
    assert oracle is not None
    assert fixed is not None
    assert oracle.score.replica_hours < fixed.score.replica_hours


def test_schedule_starts_replicas_in_advance() -> None:
    plan = schedule([0.5] * 100 + [2.5] * 50 + [0.5] * 100, start_up_s=20, packing=1.0, window_s=1)
    assert plan.replicas[79] == 3
    assert plan.replicas[70] == 1
    assert plan.replicas[160] == 1


def test_needs_use_the_scarcest_resource() -> None:
    times = load_service_times("nano-9b-a10g")
    chat = needs([(float(i), 500, 300) for i in range(600)], times)
    assert 0.5 < chat[300] < 1.5  # one request a second, about 13 s each, 16 slots
    extraction = needs([(float(i), 6000, 1) for i in range(600)], times)
    assert extraction[300] == pytest.approx(6000 * 0.000254, rel=0.15)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_runs(name: str) -> None:
    scenario = Scenario(
        [(i * 0.4, 60, 30) for i in range(300)], TIMES, DEFAULT_SLO, FleetOptions(max_replicas=5, initial=2)
    )
    plans = list(candidates(name, scenario))
    assert plans
    result = scenario.run(plans[0]).score
    assert 0 <= result.attainment <= 1
    assert result.replica_hours > 0


def test_grid_search_with_early_stop_finds_the_same() -> None:
    """Runs that cannot reach the attainment are given up, and the first that reaches it ends its row."""
    arrivals = TRAFFIC_PATTERNS["office"].arrivals(scale=0.2)[:1500]
    scenario = Scenario(
        arrivals, load_service_times("nano-9b-a10g"), DEFAULT_SLO, FleetOptions(max_replicas=20, initial=2)
    )
    whole, short = tune("fixed", scenario), tune("fixed", scenario, attainment=0.99)
    found, quick = cheapest(whole, 0.99), cheapest(short, 0.99)
    assert found is not None
    assert quick is not None
    assert (quick.settings, quick.score) == (found.settings, found.score)
    assert len(short) < len(whole)
    assert all(trial.given_up for trial in short[:-1])
    assert all(trial.score.attainment < 0.99 for trial in whole[: len(short) - 1])


def test_history_precedes_the_pattern() -> None:
    """The counted part does not depend on the history."""
    nights = TRAFFIC_PATTERNS["nights"].arrivals(seed=5, scale=0.5, history_s=7200.0)
    assert {int(at // 3600) for at, _, _ in nights} == {0, 1, 2, 3}
    assert nights[: len(TRAFFIC_PATTERNS["nights"].arrivals(seed=5, scale=0.5))] == TRAFFIC_PATTERNS["nights"].arrivals(
        5, 0.5
    )


def test_unknown_policy_is_named() -> None:
    scenario = Scenario([(0.0, 1, 1)], TIMES, DEFAULT_SLO, FleetOptions())
    with pytest.raises(ConfigError, match="magic"):
        list(candidates("magic", scenario))


def test_stock_policies_react_as_documented() -> None:
    for policy in (RayQueueLength(target_ongoing=2.0, up_s=5, down_s=120), KedaWaiting(1.0), KnativeConcurrency(2.0)):
        run = fleet(policy, output=300, initial=1)
        assert max(count for _, count in run.targets) > 1, policy.name


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a,b\n1,2", "has no column"),
        ("time,prompt,output\n", "has no rows"),
        ("time,prompt,output\n-1,5,5", "negative"),
        ("time,prompt,output\nnan,5,5", "not finite"),
        ("time,prompt,output\n5,5,5\n4,5,5", "before the row above"),
        ("time,prompt,output\n5,0,5", "at least 1"),
        ("time,prompt,output\n5,x,5", "two counts"),
        ("time,prompt,output\nmonday,5,5", "two counts.*seconds since the start or a date"),
        ("time,prompt,output\n0,5,5\n90000,5,5", "gap"),
    ],
)
def test_invalid_trace_is_refused(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse_trace(text, "trace.csv")


def test_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not readable"):
        read_trace(tmp_path / "none.csv")


def test_trace_is_replayed(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("time,prompt,output\n0,10,5\n3.5,20,7\n")
    assert read_trace(file) == [(0.0, 10, 5), (3.5, 20, 7)]


@pytest.mark.parametrize("name", sorted(TRAFFIC_PATTERNS))
def test_traffic_patterns_keep_their_rate(name: str) -> None:
    one = TRAFFIC_PATTERNS[name]
    arrivals = one.arrivals(seed=3, scale=0.1)
    expected = 0.1 * one.base * sum(one.rate(float(second)) for second in range(int(one.seconds)))
    assert len(arrivals) == pytest.approx(expected, rel=0.15)
    assert max(one.rate(float(second)) for second in range(int(one.seconds))) <= one.highest * 1.0001
    assert arrivals == sorted(arrivals)


def test_calibration_needs_a_cache() -> None:
    bare = TIMES.model_copy(update={"cache": None})
    with pytest.raises(ConfigError, match="is missing"):
        simulate([(0.0, 1, 1)], bare, Fixed(1), FleetOptions())


def test_too_large_request_is_refused() -> None:
    with pytest.raises(ConfigError, match="a replica has 40"):
        simulate([(0.0, 700, 100)], TIMES, Fixed(1), FleetOptions())


@pytest.mark.parametrize(("old", "new"), [("fixed_s: 0.01", "fixed_s: -1"), ("kind: measured", "kind: guess")])
def test_invalid_calibration_is_refused(old: str, new: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_service_times(TEXT.replace(old, new), "my.yaml")
    assert "my.yaml" in caught.value.where


def test_packaged_calibrations() -> None:
    for name in built_in():
        times = load_service_times(name)
        assert times.kind in ("measured", "bound")
        assert (times.error is not None) == (times.kind == "measured")
    with pytest.raises(ConfigError, match="no-such"):
        load_service_times("no-such")


@pytest.mark.parametrize(
    "text",
    [
        "time,prompt,output\n0,5,2\n1.5,6,3\n",
        "time,prompt,output\n2026-11-27T10:00:00Z,5,2\n2026-11-27T11:00:01.500+01:00,6,3\n",
        "time,prompt,output\n2026-11-27 10:00:00,5,2\n2026-11-27 10:00:01.5000000,6,3\n",
        "time,prompt,output\n1795770000,5,2\n1795770001.5,6,3\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,5,2\n2023-11-16 18:17:05.4799600,6,3\n",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens\n5,a,5,2,7\n6,a,9,0,9\n6.5,a,6,3,9\n",
        '{"timestamp": 27000, "input_length": 5, "output_length": 2}\n'
        '{"timestamp": 28500, "input_length": 6, "output_length": 3}\n',
    ],
    ids=["own", "dates", "without-zone", "since-1970", "azure", "burstgpt", "mooncake"],
)
def test_own_and_public_traces_are_read(text: str) -> None:
    assert parse_trace(text, "x") == [(0.0, 5, 2), (1.5, 6, 3)]


def test_requests_of_the_service_itself_are_no_traffic() -> None:
    """They are logged at debug level; before 0.2 their key was named canary. A customer may have any name."""
    fields = "ms=500 prompt_tokens={} output_tokens=2"
    text = [
        f"2026-11-27T10:00:0{second}.500Z {level} hybridserve.access event=request key={key} {fields.format(prompt)}"
        for second, level, key, prompt in [
            (0, "info", "internal", 5),
            (1, "info", "canary", 7),
            (2, "debug", "internal", 8),
            (3, "info", "team-a", 6),
        ]
    ]
    assert parse_trace("\n".join(text), "x") == [(0.0, 5, 2), (3.0, 6, 2)]
    rows = [
        json.dumps(
            {"time": f"2026-11-27T10:00:0{second}.500Z", "level": level, "logger": "hybridserve.access", "key": key,
             "event": "request", "ms": 500, "prompt_tokens": 5, "output_tokens": 2}
        )
        for second, level, key in [(0, "info", "internal"), (1, "debug", "internal"), (2, "info", "team-a")]
    ]  # fmt: skip
    assert parse_trace("\n".join(rows), "x") == [(0.0, 5, 2), (2.0, 5, 2)]
