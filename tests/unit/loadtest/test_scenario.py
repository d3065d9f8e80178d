"""Scenarios, load curves, arrivals, prompts, searches and verdicts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pvariance
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.errors import ConfigError
from hybridserve.loadtest.load_curve import Burst, Constant, Diurnal, Ramp, Steps, arrivals, share
from hybridserve.loadtest.metrics import Summary, summarize
from hybridserve.loadtest.prompts import Conversation, PromptRequest, Prompts
from hybridserve.loadtest.request_record import Outcome, Record
from hybridserve.loadtest.scenario import (
    ChatKind,
    Client,
    FileKind,
    LoadTestSLO,
    Scenario,
    TokenKind,
    built_in,
    load_scenario,
    parse_scenario,
)
from hybridserve.loadtest.session import RunFile, Session
from hybridserve.loadtest.sweep import SweepPoint, find_max, fit, scaling_settings
from hybridserve.loadtest.verdict import Window, check_slo, client_health, slo_status, verdict_text
from hybridserve.settings.slo import LatencySLO

SCENARIOS = {"grid", "chat", "agent", "reasoning", "long-context", "tools", "guard", "burst", "diurnal", "ramp", "soak"}


def scenario(**changes: object) -> Scenario:
    tree: dict[str, object] = {
        "about": "t",
        "mode": "closed",
        "curve": {"shape": "constant", "level": 2, "seconds": 10},
        "mix": [{"name": "a", "type": "tokens", "prompt": 20, "output": 10}],
    }
    return parse_scenario(yaml.safe_dump(tree | changes), "test")


def test_packaged_scenarios_are_valid() -> None:
    assert set(built_in()) >= SCENARIOS
    for name in built_in():
        one = load_scenario(name)
        prompts = Prompts(one, "m", (100, 900))
        for _ in range(20):
            request = prompts.next()
            body = json.loads((prompts.turn(request) if isinstance(request, Conversation) else request).body)
            assert body["stream"] is True


def test_grid_has_the_lengths_of_the_paper() -> None:
    kinds = [kind for kind in load_scenario("grid").mix if isinstance(kind, TokenKind)]
    assert [(k.prompt, k.output) for k in kinds] == [(1024, 1024), (1024, 8192), (8192, 1024), (8192, 16384)]
    small = [kind for kind in load_scenario("grid").scaled(0.02).mix if isinstance(kind, TokenKind)]
    assert [(k.prompt, k.output) for k in small] == [(20, 20), (20, 164), (164, 20), (164, 328)]


def test_long_context_fills_the_models_context() -> None:
    one = load_scenario("long-context")
    for limit in (1024, 131_072, 1_000_000):
        assert max(kind.prompt + kind.output for kind in one.fitted(limit).mix if isinstance(kind, TokenKind)) == limit
    assert one.fitted(None) == one
    assert one.longest <= 1024, "only a context that is too small for the short requests may be refused"


@pytest.mark.parametrize(
    ("change", "place", "what"),
    [
        (
            {"mix": [{"name": "a", "type": "tokens", "prompt": 9, "output": 1, "shared_prefix": 9}]},
            "mix",
            "shared_prefix to 8 or less",
        ),
        ({"warmup": 3}, "warmup", "is not a known field"),
        ({"mode": "half-open"}, "mode", "closed"),
        ({"curve": {"shape": "constant", "level": 2}}, "curve.constant.seconds", "is missing"),
        ({"curve": {"shape": "ramp"}}, "curve.ramp", "low, high, seconds are missing"),
        ({"curve": {"shape": "square", "level": 2}}, "curve", "square"),
        ({"mix": []}, "mix", "at least 1"),
        ({"mix": [{"name": "a", "type": "tokens", "prompt": 0, "output": 1}]}, "mix.0.tokens.prompt", "below 1"),
        ({"slo": {"percentiles": {"tfft_p99": 1}}}, "slo.percentiles", "not text of the form ^(ttft|"),
        ({"trace": "x.csv"}, "", "set mode to open"),
        ({"curve": {"shape": "constant", "level": 1.5, "seconds": 1}}, "", "1.5 is not a number of users"),
    ],
)
def test_invalid_scenario_is_one_error(change: dict[str, object], place: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scenario(**change)
    assert place in caught.value.where
    assert what in f"{caught.value.what} {caught.value.fix}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "what"), [("caht", "there is no scenario"), ("none.yaml", "cannot be read")])
def test_unknown_scenario(name: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        load_scenario(name)


def test_load_curves() -> None:
    burst = Burst(shape="burst", low=1, high=9, every=10, length=2, seconds=30)
    assert [burst.at(second) for second in (0, 4.9, 5, 6.9, 7, 15)] == [1, 1, 9, 9, 1, 9]
    steps = Steps(shape="steps", levels=(1, 2, 4), each=5)
    assert [steps.at(second) for second in (0, 4.9, 5, 14.9, 99)] == [1, 1, 2, 4, 4]
    day = Diurnal(shape="diurnal", low=1, high=3, period=100, seconds=100)
    assert [round(day.at(second), 6) for second in (0, 25, 50, 100)] == [1, 2, 3, 1]
    assert Ramp(shape="ramp", low=0, high=10, seconds=5).at(2) == 4


@pytest.mark.parametrize("name", ["chat", "ramp", "burst", "diurnal"])
def test_duration_of_any_curve_can_be_set(name: str) -> None:
    assert load_scenario(name).lasting(12.0).curve.seconds == pytest.approx(12.0)


def test_arrivals_at_a_constant_rate() -> None:
    assert list(arrivals(Constant(level=4, seconds=2), "constant", 1)) == [index / 4 for index in range(8)]
    times = list(arrivals(Constant(level=50, seconds=400), "poisson", 7))
    gaps = [b - a for a, b in pairwise(times)]
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert fmean(gaps) == pytest.approx(0.02, rel=0.03)
    # Exponential: the variance is the square of the mean.
    assert pvariance(gaps) == pytest.approx(0.02**2, rel=0.06)


@pytest.mark.parametrize("process", ["poisson", "constant"])
def test_arrivals_follow_the_curve(process: str) -> None:
    ramp = Ramp(shape="ramp", low=0, high=200, seconds=100)
    times = list(arrivals(ramp, process, 3))  # type: ignore[arg-type]
    assert len(times) == pytest.approx(10_000, rel=0.04)
    assert sum(at < 50 for at in times) == pytest.approx(2_500, rel=0.08)
    assert times == sorted(times)


@given(st.integers(0, 5), st.integers(1, 5))
def test_workers_share_one_schedule(seed: int, workers: int) -> None:
    curve = Constant(level=20, seconds=3)
    whole = list(enumerate(arrivals(curve, "poisson", seed, 1.0)))
    parts = [list(share(arrivals(curve, "poisson", seed, 1.0), one, workers)) for one in range(workers)]
    assert sorted(pair for part in parts for pair in part) == whole


def test_prompts_have_exact_lengths_and_unique_prefixes() -> None:
    mix = [{"name": "a", "type": "tokens", "prompt": 40, "output": 10, "shared_prefix": 8}]
    ids = []
    for worker in range(2):
        prompts = Prompts(scenario(mix=mix), "m", (100, 900), worker)
        for _ in range(50):
            request = prompts.next()
            assert isinstance(request, PromptRequest)
            body = json.loads(request.body)
            assert (len(body["prompt"]), body["max_tokens"], body["ignore_eos"]) == (40, 10, True)
            ids.append(tuple(body["prompt"]))
    assert len({one[:8] for one in ids}) == 1
    assert len({one[8:14] for one in ids}) == 100, "prompts must not share a prefix that a cache can reuse"


def test_conversation_grows() -> None:
    kind = ChatKind(type="chat", name="c", questions=("q1", "q2"), turns=2, system="s", repeat_system=2)
    prompts = Prompts(scenario(mix=[kind.model_dump(mode="json")]), "m", (100, 900))
    talk = prompts.next()
    assert isinstance(talk, Conversation)
    prompts.turn(talk)
    talk.answered("a1")
    messages = json.loads(prompts.turn(talk).body)["messages"]
    assert [one["content"] for one in messages] == ["s\ns", "q1", "a1", "q2"]
    assert not talk.over
    talk.answered("a2")
    assert talk.over


@pytest.mark.parametrize(
    ("settings", "field"), [({"reasoning": "off"}, "off"), ({"reasoning": "on"}, "on"), ({"budget": 9}, {"budget": 9})]
)
def test_reasoning_field(settings: dict[str, object], field: object) -> None:
    mix = [{"name": "c", "type": "chat", "questions": ["q"], **settings}]
    prompts = Prompts(scenario(mix=mix), "m", (100, 900))
    talk = prompts.next()
    assert isinstance(talk, Conversation)
    assert json.loads(prompts.turn(talk).body)["reasoning"] == field


def test_trace_is_scaled_and_shared_by_workers(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("time,prompt,output\n0,100,20\n0.5,30,10\n1.25,50,40\n")
    one = scenario(mode="open", trace=str(path)).scaled(0.1)
    found = []
    for worker in (0, 1):
        run = RunFile("http://127.0.0.1:1", "m", (100, 900), str(tmp_path), 2, one.model_dump(mode="json"))
        session = Session(run, worker, None)
        for _, at, request in session.schedule():
            assert request is not None
            body = json.loads(request.body)
            found.append((at, len(body["prompt"]), body["max_tokens"]))
        session.close()
    assert sorted(found) == [(0, 10, 2), (0.5, 3, 1), (1.25, 5, 4)]


def test_prompts_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "one", "output_tokens": 3}\n{"prompt": [5, 6]}\n')
    mix = [{"name": "f", "type": "file", "path": str(path), "output": 7}]
    prompts = Prompts(scenario(mix=mix), "m", (1, 2))
    bodies = [json.loads(one.body) for index in (0, 1, 2) if isinstance(one := prompts.next(index), PromptRequest)]
    assert [(one["prompt"], one["max_tokens"]) for one in bodies] == [("one", 3), ([5, 6], 7), ("one", 3)]
    path.write_text('{"text": "one"}\n')
    with pytest.raises(ConfigError, match="without a prompt"):
        Prompts(scenario(mix=mix), "m", (1, 2))


def test_paths_are_relative_to_the_scenario_file(tmp_path: Path) -> None:
    mix = [{"name": "f", "type": "file", "path": "p.jsonl"}, {"name": "g", "type": "file", "path": "/p.jsonl"}]
    file = tmp_path / "mine.yaml"
    file.write_text(scenario(mode="open", mix=mix, trace="t.csv").model_dump_json())
    loaded = load_scenario(str(file))
    paths = [kind.path for kind in loaded.mix if isinstance(kind, FileKind)]
    assert (paths, loaded.trace) == ([tmp_path / "p.jsonl", Path("/p.jsonl")], tmp_path / "t.csv")
    with pytest.raises(ConfigError, match=r"p\.jsonl cannot be read: No such file.*relative to the scenario file"):
        Prompts(loaded, "m", (1, 2))


def test_the_page_has_the_fields_of_every_curve() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "load-test.md").read_text()
    rows = {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in re.findall(r"\| `(\w+)` \| (.*?) \|", page)}
    for curve in (Constant, Steps, Ramp, Burst, Diurnal):
        name = curve.__name__.lower()
        assert set(curve.model_fields) - {"shape"} <= rows[name], name


@given(st.floats(0.05, 400), st.floats(0.1, 50))
def test_search_finds_the_highest_rate(border: float, first: float) -> None:
    found = find_max(lambda rate: "kept" if rate <= border else "missed", first, 1000)
    assert found.best is not None
    assert found.best <= border < found.best * 1.1 * 1.0001
    assert len(found.tried) < 30


def test_search_without_a_border() -> None:
    never = find_max(lambda _: "missed", 1, 1000, lowest=0.1)
    assert (never.best, never.ended) == (None, "found")
    always = find_max(lambda _: "kept", 1, 100)
    assert (always.best, always.ended) == (100, "open")
    ends: list[Literal["void", "interrupted", "gone"]] = ["void", "interrupted", "gone"]
    for end in ends:
        stopped = find_max(lambda rate, end=end: "kept" if rate < 5 else end, 1, 100)  # type: ignore[misc]
        assert (stopped.best, stopped.ended, stopped.tried[-1]) == (4, end, (8, end))


def record(at: float = 0.0, late: float = 0.0, ttft: float = 0.1) -> Record:
    return Record(at, at + late, ttft + 1, Outcome.OK, chunks=(ttft, ttft + 1), output_tokens=11)


def healthy(cpu: float = 0.1, lag: float = 0.001, **about: float) -> tuple[bool, str]:
    records = [record(index * 0.01, **about) for index in range(200)]
    windows = [Window(float(second), 0, cpu, (lag,) * 90) for second in range(1, 4)]
    found = client_health(windows, summarize(records), Client(), 0.0, 3.0)
    return found.valid, " ".join(found.faults)


def test_slow_client_voids_the_run() -> None:
    assert healthy() == (True, "")
    assert healthy(lag=0.019) == (True, ""), "a fifth of TTFT is allowed"
    for fault in ({"lag": 0.05}, {"cpu": 0.9}, {"late": 0.5}):
        valid, _ = healthy(**fault)  # type: ignore[arg-type]
        assert not valid, fault
    records = [record(index * 0.001) for index in range(2000)]
    fast = client_health([Window(1.0, 0, 0.1, (0.0,))], summarize(records), Client(), 0.0, 3.0)
    assert "streamed tokens/s" in fast.faults[0]
    assert not client_health([], summarize(records), Client(), 0.0, 3.0).valid, "not monitored"


def test_missing_worker_voids_the_run() -> None:
    summary = summarize([record(index) for index in range(60)])
    both = [Window(float(second), worker, 0.1, (0.001,)) for second in range(1, 61) for worker in (0, 1)]
    assert client_health(both, summary, Client(), 0.0, 60.0, expected=2).valid
    one = [window for window in both if window.worker == 0]
    assert client_health(one, summary, Client(), 0.0, 60.0, expected=2).faults == ("1 of 2 workers reported",)
    died = [window for window in both if window.worker == 0 or window.at < 20]
    assert client_health(died, summary, Client(), 0.0, 60.0, expected=2).faults == (
        "worker 1 stopped reporting 19 s after the start",
    )


def test_slo_checks() -> None:
    good = [record(index) for index in range(99)]
    summary = summarize([*good, Record(1, 1, 0.1, Outcome.HTTP_5XX)], LatencySLO(ttft_s=0.2))
    kept = {
        one.name: one.kept
        for one in check_slo(summary, LoadTestSLO(ttft=0.2, percentiles={"ttft_p95": 0.2, "e2e_p50": 0.5}))
    }
    assert kept == {"attainment": True, "errors": True, "ttft_p95": True, "e2e_p50": False}
    nothing: Summary = summarize([Record(1, 1, 0.1, Outcome.CONNECT)])
    assert not any(one.kept for one in check_slo(nothing, LoadTestSLO(percentiles={"ttft_p95": 9})))
    windows = [Window(1.0, 0, 0.1, (0.0,))]
    health = client_health(windows, summary, Client(), 0.0, 3.0)
    assert slo_status(check_slo(summary, LoadTestSLO()), health) == "kept"
    assert slo_status(check_slo(summary, LoadTestSLO(errors=0.001)), health) == "missed"
    assert (
        slo_status(check_slo(summary, LoadTestSLO(errors=0.001)), client_health([], summary, Client(), 0.0, 3.0))
        == "void"
    )
    strict = check_slo(summary, LoadTestSLO(errors=0.001, percentiles={"e2e_p50": 0.5}))
    assert verdict_text("missed", strict) == "The SLO is missed. Not met: errors, e2e_p50."
    assert verdict_text("kept", check_slo(summary, LoadTestSLO())) == "The SLO is kept."


def test_step_times_are_fitted() -> None:
    fixed, sequence, context, prompt, overhead = 0.004, 0.0003, 1e-7, 5e-5, 0.003
    points = []
    for p, o in ((64, 64), (512, 64), (1024, 256)):
        for n in (1, 4, 16):
            tpot = fixed + sequence * n + context * n * (p + o / 2) + prompt * n * p / o
            first = overhead + fixed + sequence + prompt * p
            one = Record(
                0, 0, first + tpot * (o - 1), Outcome.OK, chunks=(first, first + tpot * (o - 1)), output_tokens=o
            )
            points.append(SweepPoint("k", p, o, n, summarize([one])))
    times = fit(points)
    assert (times.fixed_s, times.per_sequence_s) == pytest.approx((fixed, sequence), rel=0.02)
    assert (times.per_prompt_token_s, times.overhead_s) == pytest.approx((prompt, overhead), rel=0.05)
    assert times.inter_token_error < 0.01
    scaling = scaling_settings(times, 45)["scaling"]
    assert scaling == {"start_up_s": 45, "prefill_tokens_per_s": pytest.approx(1 / prompt, rel=0.06)}
    blind = scaling_settings(replace(times, per_prompt_token_s=0.0), 45)["scaling"]
    assert blind["prefill_tokens_per_s"] is None
    with pytest.raises(ConfigError, match="too few points"):
        fit(points[:3])
