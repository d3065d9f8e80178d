"""Every measure on requests with known times."""

from __future__ import annotations

import json
import math
import random
import statistics as reference
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.loadtest.metrics import (
    Summary,
    by_level,
    peak_concurrency,
    saturation,
    summarize,
    tokens_over_time,
)
from hybridserve.loadtest.request_record import Outcome, Record, read_records
from hybridserve.loadtest.statistics import Distribution, bootstrap_ratio, wilson
from hybridserve.loadtest.stream import parse_stream
from hybridserve.settings.slo import LatencySLO


def answer(start: float = 0.0, late: float = 0.0, first: float = 0.010, gap: float = 0.005, tokens: int = 5) -> Record:
    chunks = tuple(first + gap * index for index in range(tokens))
    end = chunks[-1] + 0.001
    return Record(
        intended=start,
        sent=start + late,
        end=end,
        outcome=Outcome.OK,
        chunks=chunks,
        first_answer=chunks[2],
        prompt_tokens=7,
        output_tokens=tokens,
        reasoning_tokens=2,
        usage=True,
        finish_reason="length",
    )


def failure(outcome: Outcome = Outcome.HTTP_5XX, start: float = 0.0) -> Record:
    return Record(intended=start, sent=start, end=0.002, outcome=outcome, detail="boom")


def test_measures_of_one_request() -> None:
    one = answer()
    assert one.ttft == pytest.approx(0.010)
    assert one.tpot == pytest.approx(0.005)
    assert list(one.itls) == pytest.approx([0.005] * 4)
    assert one.e2e == pytest.approx(0.031)


def test_late_client_adds_to_latency() -> None:
    # A client that is 300 ms late: hiding it would be coordinated omission.
    late = answer(late=0.3)
    assert late.ttft == pytest.approx(0.310)
    assert late.e2e == pytest.approx(0.331)
    assert late.tpot == pytest.approx(0.005), "TPOT excludes the client"
    found = summarize([late])
    assert found.schedule_lag is not None
    assert found.schedule_lag.p50 == pytest.approx(0.3)


def test_chunks_with_several_tokens() -> None:
    # Two chunks with four tokens: TPOT uses the server's count, ITL the gap between chunks.
    one = Record(0.0, 0.0, 0.040, Outcome.OK, chunks=(0.010, 0.040), output_tokens=4, usage=True)
    assert one.tpot == pytest.approx(0.010)
    found = summarize([one])
    assert found.itl is not None
    assert found.itl.p50 == pytest.approx(0.030)
    assert found.tokens_per_chunk == 2.0


def test_throughput_and_counts() -> None:
    found = summarize([answer(0.0), answer(1.0), failure(start=1.5)])
    assert found.duration == pytest.approx(1.502)
    assert (found.attempted, found.completed, found.output_tokens, found.prompt_tokens) == (3, 2, 10, 14)
    assert found.reasoning_tokens == 4
    assert found.output_throughput == pytest.approx(10 / 1.502)
    assert found.error_rate == pytest.approx(1 / 3)
    assert found.outcomes == {"ok": 2, "http_5xx": 1}


def test_failures_count_against_attainment() -> None:
    found = summarize([answer(), failure(), failure(Outcome.LIMIT)], LatencySLO(ttft_s=1.0))
    assert found.attainment is not None
    assert found.attainment.value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        (LatencySLO(ttft_s=0.011), 1),
        (LatencySLO(ttft_s=0.009), 0),
        (LatencySLO(inter_token_s=0.0051), 1),
        (LatencySLO(inter_token_s=0.0049), 0),
        (LatencySLO(e2e_s=0.032), 1),
        (LatencySLO(e2e_s=0.030), 0),
        (LatencySLO(ttft_s=0.011, inter_token_s=0.0049), 0),
    ],
)
def test_goodput_needs_every_limit(limits: LatencySLO, good: int) -> None:
    found = summarize([answer()], limits)
    assert found.goodput == pytest.approx(good / found.duration)


def test_exceeded_limits_are_counted_by_name() -> None:
    slow = answer(first=0.5, gap=0.2)
    found = summarize([answer(), slow, failure()], LatencySLO(ttft_s=0.1, inter_token_s=0.1, e2e_s=9.0))
    assert found.missed == {"ttft": 1, "tpot": 1, "failed": 1}
    assert found.attainment is not None
    assert found.attainment.value == pytest.approx(1 / 3)


def test_expected_blocks() -> None:
    blocked = Record(0.0, 0.0, 0.004, Outcome.GUARD, expected=Outcome.GUARD, status=400)
    let_through = Record(0.0, 0.0, 0.030, Outcome.OK, expected=Outcome.GUARD, chunks=(0.01,), output_tokens=1)
    found = summarize([blocked, let_through], LatencySLO(ttft_s=1))
    assert found.error_rate == 0.5
    assert found.attainment is not None
    assert found.attainment.value == 0.5


def test_warm_up_does_not_count() -> None:
    warm = Record(0.0, 0.0, 5.0, Outcome.OK, chunks=(5.0,), output_tokens=1, warm_up=True)
    found = summarize([warm, answer(6.0)])
    assert found.attempted == 1
    assert found.ttft is not None
    assert found.ttft.max == pytest.approx(0.010)


def test_missing_measures_are_none() -> None:
    found = summarize([failure()])
    assert found.ttft is None
    assert summarize([]).attainment is None


def test_concurrency_levels_and_time() -> None:
    overlapping = [answer(0.0), answer(0.01), answer(0.5)]
    assert peak_concurrency(overlapping) == 2
    levels = by_level([Record(0, 0, 1, Outcome.OK, level=2.0), Record(5, 5, 1, Outcome.CONNECT, level=4.0)])
    assert {level: one.attempted for level, one in levels.items()} == {2.0: 1, 4.0: 1}
    assert tokens_over_time([answer(0.0), answer(2.0)]) == [(0, 5), (1, 0), (2, 5)]


def test_percentile_needs_ten_values_beyond() -> None:
    few, many = Distribution.of([1.0] * 50), Distribution.of([1.0] * 1000)
    assert few is not None
    assert many is not None
    assert few.is_reliable(50)
    assert not few.is_reliable(99)
    assert many.is_reliable(99)


def test_wilson() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263.
    found = wilson(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


def test_bootstrap_covers_the_truth() -> None:
    source = random.Random(3)
    hits = 0
    for seed in range(60):
        ours = [source.gauss(12, 2) for _ in range(80)]
        theirs = [source.gauss(10, 2) for _ in range(80)]
        hits += not bootstrap_ratio(ours, theirs, reference.median, seed, 200).excludes(1.2)
    assert hits >= 49, "the interval covers the true ratio too rarely"
    assert bootstrap_ratio(ours, theirs, reference.median).excludes(1.0)


@given(
    st.lists(st.floats(1e-5, 2.0), min_size=1, max_size=30),
    st.sampled_from(list(Outcome)),
    st.floats(0, 1e9),
    st.integers(0, 100),
)
def test_record_round_trip(gaps: list[float], outcome: Outcome, start: float, tokens: int) -> None:
    at, chunks = 0.0, []
    for gap in gaps:
        at += gap
        chunks.append(at)
    before = Record(start, start, at, outcome, chunks=tuple(chunks), output_tokens=tokens, kind="chat", status=200)
    (after,) = read_records([before.to_json() + "\n"])
    assert (after.outcome, after.output_tokens, after.kind) == (outcome, tokens, "chat")
    assert after.sent == pytest.approx(start, abs=1e-6)
    assert max(abs(a - b) for a, b in zip(after.chunks, before.chunks, strict=True)) < 1e-6


def test_incomplete_line_is_skipped() -> None:
    line = answer().to_json()
    assert len(read_records([line + "\n", line[:-20]])) == 1


def events(*bodies: object, done: bool = True) -> list[tuple[float, bytes]]:
    lines = [b"data: " + json.dumps(body).encode() + b"\n" for body in bodies] + ([b"data: [DONE]\n"] if done else [])
    return [(float(index + 1), line) for index, line in enumerate(lines)]


def delta(finish: str | None = None, **parts: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": parts, "finish_reason": finish}]}


def test_chat_stream() -> None:
    stream = parse_stream(
        events(
            delta(role="assistant", content=""),
            delta(reasoning="hm"),
            delta(reasoning_content="so"),
            delta(content="He"),
            delta(content=""),
            delta(content="llo", finish="stop"),
            {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}},
        )
    )
    assert stream.chunks == [2, 3, 4, 5, 6]
    assert stream.first_answer == 4
    assert stream.end == 7
    assert (stream.output_tokens, stream.reasoning_tokens, stream.prompt_tokens) == (5, 2, 9)
    assert "".join(stream.text) == "Hello"
    assert stream.done


@pytest.mark.parametrize(
    ("details", "cached"),
    [(None, None), ({}, None), ({"cached_tokens": None}, None), ({"cached_tokens": 0}, 0), ({"cached_tokens": 7}, 7)],
)
def test_cached_tokens_are_unknown_unless_the_server_reports_them(
    details: dict[str, int | None] | None, cached: int | None
) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": details}
    stream = parse_stream(events({"choices": [], "usage": usage}))
    assert stream.cached_tokens == cached
    record = Record(0.0, 0.0, 0.01, Outcome.OK, cached_tokens=cached)
    (read,) = read_records([record.to_json() + "\n"])
    assert summarize([read]).cached_tokens == cached


def test_reasoning_tokens_of_the_server() -> None:
    usage = {"completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 8}}
    assert parse_stream(events(delta(reasoning="x"), {"choices": [], "usage": usage})).reasoning_tokens == 8


def test_every_completion_chunk_is_a_token() -> None:
    stream = parse_stream(events({"choices": [{"text": ""}]}, {"choices": [{"text": "a", "finish_reason": "length"}]}))
    assert stream.chunks == [1, 2]
    assert stream.finish_reason == "length"


def test_error_in_the_stream() -> None:
    stream = parse_stream(
        [*events(delta(content="a"), {"error": {"message": "gone"}}, done=False), (9.0, b'data: {"cho')]
    )
    assert stream.error == {"message": "gone"}
    assert not stream.done


@pytest.mark.parametrize(("arguments", "good"), [(['{"a"', ": 1}"], True), (['{"a"'], False)])
def test_tool_calls_in_pieces(arguments: list[str], good: bool) -> None:
    calls = [delta(tool_calls=[{"index": 0, "function": {"name": "f"}}])]
    calls += [delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in arguments]
    assert parse_stream(events(*calls)).tool_calls_are_json is good


@given(st.lists(st.lists(st.floats(1e-4, 1.0), min_size=2, max_size=20), min_size=1, max_size=12))
def test_guidellm_definitions(requests: list[list[float]]) -> None:
    """GuideLLM 0.8: time per output token is request time over tokens; inter-token latency is the mean gap of one."""
    records = []
    for gaps in requests:
        times = [sum(gaps[: index + 1]) for index in range(len(gaps))]
        records.append(Record(0.0, 0.0, times[-1], Outcome.OK, chunks=tuple(times), output_tokens=len(times)))
    found = summarize(records)
    means = [reference.fmean(b - a for a, b in pairwise(one.chunks)) for one in records]
    assert found.tpot is not None
    assert math.isclose(found.tpot.p50, reference.median(means), rel_tol=1e-9)
    assert found.norm_tpot is not None
    assert math.isclose(found.norm_tpot.p50, reference.median(sum(g) / len(g) for g in requests), rel_tol=1e-9)


def test_continuous_curve_has_eight_bands() -> None:
    records = [replace(answer(index * 0.1), level=1 + index / 100) for index in range(100)]
    found = by_level(records)
    assert len(found) == 8
    assert sum(one.attempted for one in found.values()) == 100
    assert list(found) == sorted(found)
    assert 1 < min(found) < 1.13
    steps = by_level([replace(answer(index), level=float(2 ** (index % 4))) for index in range(40)])
    assert list(steps) == [1, 2, 4, 8]


def test_saturation() -> None:
    def at(tokens: int) -> Summary:
        return replace(summarize([answer()]), output_throughput=float(tokens))

    assert saturation({1: at(100), 2: at(190), 4: at(300), 8: at(310), 16: at(305)}) == 4
    assert saturation({1: at(100), 2: at(190), 4: at(300)}) is None, "throughput still grows"
    assert saturation({1: at(100), 2: at(100)}) is None, "two levels are too few"
