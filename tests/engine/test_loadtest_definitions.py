"""The same requests through vLLM's own `calculate_metrics`: every shared measure is the same number."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from hybridserve.loadtest.metrics import summarize
from hybridserve.loadtest.request_record import Outcome, Record
from hybridserve.settings.slo import LatencySLO

pytestmark = pytest.mark.engine


def test_measures_are_those_of_vllm_bench() -> None:
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
    from vllm.benchmarks.serve import calculate_metrics

    source = random.Random(7)
    records, theirs = [], []
    for index in range(200):
        start = index * 0.05
        times = [source.uniform(0.05, 0.4)]
        for _ in range(source.randint(0, 40)):
            times.append(times[-1] + source.uniform(0.001, 0.05))
        if index % 17 == 0:
            records.append(Record(start, start, 0.01, Outcome.HTTP_5XX))
            theirs.append(RequestFuncOutput(success=False, error="HTTP 500", start_time=start))
            continue
        tokens = len(times) + index % 3
        records.append(
            Record(start, start, times[-1], Outcome.OK, chunks=tuple(times), prompt_tokens=index, output_tokens=tokens)
        )
        theirs.append(
            RequestFuncOutput(
                success=True,
                latency=times[-1],
                output_tokens=tokens,
                ttft=times[0],
                itl=[b - a for a, b in pairwise(times)],
                prompt_len=index,
                start_time=start,
            )
        )
    limits = {"ttft": 300.0, "tpot": 24.0, "e2el": 900.0}
    ours = summarize(records, LatencySLO(0.3, 0.024, 0.9))
    reference, _ = calculate_metrics([], theirs, ours.duration, None, [90, 95, 99], limits)

    assert ours.completed == reference.completed
    assert ours.attempted - ours.completed == reference.failed
    assert (ours.prompt_tokens, ours.output_tokens) == (reference.total_input, reference.total_output)
    assert ours.request_throughput == pytest.approx(reference.request_throughput)
    assert ours.output_throughput == pytest.approx(reference.output_throughput)
    assert ours.total_throughput == pytest.approx(reference.total_token_throughput)
    assert 0 < ours.goodput == pytest.approx(reference.request_goodput)
    for name, theirs_name in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e", "e2el")):
        mine = getattr(ours, name)
        assert mine.mean * 1000 == pytest.approx(getattr(reference, f"mean_{theirs_name}_ms")), name
        assert mine.p50 * 1000 == pytest.approx(getattr(reference, f"median_{theirs_name}_ms")), name
        ranks = dict(getattr(reference, f"percentiles_{theirs_name}_ms"))
        assert [mine.p90 * 1000, mine.p95 * 1000, mine.p99 * 1000] == pytest.approx([ranks[90], ranks[95], ranks[99]])
