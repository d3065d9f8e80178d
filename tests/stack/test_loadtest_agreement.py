"""The same prompts, the same server, in turn: `vllm bench serve` and hybridserve's load test must tell the same story.

`make test` compares what both count. Times are compared by `make test-loadtest-agreement`, at concurrency 1, 8 and 32
(LOADTEST_AGREEMENT=1,8,32). Each round is a pair, one run of each tool right after the other: what a neighbour does to
one it mostly does to both, so the gap is the median of the ratios of pairs, with a bootstrap interval over the pairs.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

import pytest
from vllm_bench import VllmBench, vllm_bench

from hybridserve.loadtest.runner import Result, Runner
from hybridserve.loadtest.scenario import Scenario, validate_scenario
from support.stack_service import Service

pytestmark = pytest.mark.stack

CONCURRENCY = [int(one) for one in os.environ.get("LOADTEST_AGREEMENT", "1,8").split(",")]
ROUNDS = int(os.environ.get("LOADTEST_AGREEMENT_ROUNDS", "4"))
OUTPUT = 32
TOLERANCE = 0.03
WORDS = ["cache", "state", "slot", "token", "plan", "server", "block", "prompt", "answer", "model", "memory", "page"]


@dataclass(frozen=True)
class Seen:
    """One run of one tool. Milliseconds; tokens/s."""

    ttft: float
    itl: float
    tpot: float
    e2e: float
    throughput: float
    input_tokens: int
    output_tokens: int


def theirs(bench: VllmBench, at: Address, prompts: Path, count: int, concurrency: int) -> Seen:
    flags = ["--backend", "openai", "--base-url", at.url, "--model", at.model]
    flags += ["--tokenizer", str(Path("src/hybridserve/demo_model").resolve()), "--dataset-name", "custom"]
    flags += ["--dataset-path", str(prompts), "--custom-output-len", str(OUTPUT), "--num-prompts", str(count)]
    flags += ["--max-concurrency", str(concurrency), "--disable-shuffle", "--skip-chat-template", "--ignore-eos"]
    flags += ["--temperature", "0", "--disable-tqdm", "--percentile-metrics", "ttft,tpot,itl,e2el"]
    found = bench.run(flags)
    assert (found["completed"], found["failed"]) == (count, 0)
    return Seen(
        found["median_ttft_ms"],
        found["median_itl_ms"],
        found["median_tpot_ms"],
        found["median_e2el_ms"],
        found["output_throughput"],
        found["total_input_tokens"],
        found["total_output_tokens"],
    )


def ours(at: Address, scenario: Scenario, concurrency: int, out: Path) -> Seen:
    result: Result = Runner.connect(at.url, None, at.model, scenario).run(scenario.at_level(concurrency), out)
    one = result.summary
    assert one.outcomes == {"ok": one.attempted}, one.outcomes
    assert one.usage_share == 1.0
    assert one.ttft is not None
    assert one.itl is not None
    assert one.tpot is not None
    assert one.e2e is not None
    medians = [spread.p50 * 1000 for spread in (one.ttft, one.itl, one.tpot, one.e2e)]
    return Seen(*medians, one.output_throughput, one.prompt_tokens, one.output_tokens)


class Address(Protocol):
    """A server and the model that it serves."""

    url: str
    model: str


@dataclass(frozen=True)
class Mock:
    """The server with known delays."""

    url: str
    model: str = "mock"


def paired_gap(theirs: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Median over the rounds of ours / theirs - 1, and its 95 % bootstrap interval."""
    ratios = [b / a - 1 for a, b in zip(theirs, ours, strict=True)]
    source = random.Random(1)
    medians = sorted(median(source.choices(ratios, k=len(ratios))) for _ in range(2000))
    return median(ratios), medians[50], medians[1949]


def test_both_count_the_same(service: Service, tmp_path: Path) -> None:
    for concurrency, seen in rounds_of(service, CONCURRENCY, 1, 2, tmp_path):
        (theirs,), (ours,) = seen["vllm"], seen["ours"]
        assert (ours.input_tokens, ours.output_tokens) == (theirs.input_tokens, theirs.output_tokens), concurrency
        assert ours.output_tokens >= 10 * OUTPUT


@pytest.mark.agreement
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("words", [24, 360])
def test_agrees_with_vllm_bench(
    words: int, service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures, lines = [], []
    for concurrency, seen in rounds_of(service, CONCURRENCY, ROUNDS, 4, tmp_path, words):
        for name in ("ttft", "itl", "tpot", "e2e", "throughput"):
            a, b = ([getattr(one, name) for one in seen[tool]] for tool in ("vllm", "ours"))
            gap, low, high = paired_gap(a, b)
            spread = max((max(side) - min(side)) / median(side) for side in (a, b))
            agreed = abs(gap) <= max(TOLERANCE, spread)
            lines.append(
                f"{concurrency:>4}  {name:<12}{median(a):>10.2f}{median(b):>10.2f}{gap:>8.1%}"
                f"{f'{low:.1%} to {high:.1%}':>18}{spread:>9.1%}"
                f"  {'within 3 %' if abs(gap) <= TOLERANCE else 'within spread' if agreed else 'DISAGREES'}"
            )
            if not agreed:
                failures.append(lines[-1])
        tokens = {(one.input_tokens, one.output_tokens) for tool in seen.values() for one in tool}
        lines.append(f"{concurrency:>4}  tokens in, out: {sorted(tokens)}")
        if len(tokens) != 1:
            failures.append(lines[-1])
    with capsys.disabled():
        print(
            f"\n   c  {'median of':<12}{'vllm':>10}{'ours':>10}{'gap':>8}{'95 % interval':>18}{'spread':>9}"
            f"   ({ROUNDS} rounds; prompts of {words} words; ms, tokens/s)"
        )
        print("\n".join(lines))
    assert not failures, failures


@pytest.mark.agreement
@pytest.mark.timeout(300)
def test_both_tell_the_truth_about_a_server_with_known_delays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """200 ms to the first token, then 20 ms each. The round nearest to that counts: neighbours only disturb."""
    command = [sys.executable, "loadtests/mock_server.py", "--first", "0.2", "--gap", "0.02"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines, failures = [], []
    try:
        assert process.stdout is not None
        at = Mock(process.stdout.readline().strip())
        for concurrency, seen in rounds_of(at, CONCURRENCY, 3, 2, tmp_path):
            whole = 200 + 20 * (OUTPUT - 1)
            truth = {
                "ttft": 200,
                "itl": 20,
                "tpot": 20,
                "e2e": whole,
                "throughput": concurrency * OUTPUT / whole * 1000,
            }
            for name, value in truth.items():
                a, b = (
                    min((getattr(one, name) / value - 1 for one in seen[tool]), key=abs) for tool in ("vllm", "ours")
                )
                lines.append(f"{concurrency:>4}  {name:<12}{value:>10.2f}{a:>9.1%}{b:>9.1%}")
                if abs(b) > max(TOLERANCE, abs(a)):
                    failures.append(lines[-1])
    finally:
        process.terminate()
        process.wait(10)
    with capsys.disabled():
        print(f"\n   c  {'':<12}{'truth':>10}{'vllm':>9}{'ours':>9}   (error of the best of 3 rounds)")
        print("\n".join(lines))
    assert not failures, failures


def rounds_of(
    at: Address, levels: Sequence[int], rounds: int, waves: int, folder: Path, words: int = 24
) -> Iterator[tuple[int, dict[str, list[Seen]]]]:
    """For each concurrency, what both tools saw in all rounds; who begins changes from round to round."""
    with vllm_bench() as bench:
        for concurrency in levels:
            count = max(10 // concurrency, waves) * concurrency
            prompts = folder / f"prompts-{concurrency}.jsonl"
            texts = [" ".join(WORDS[(index * 7 + step * step) % 12] for step in range(words)) for index in range(count)]
            prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
            scenario = closed_loop(prompts, count)
            # Not counted: every prompt is known to the cache, and every kernel warm, before the first round.
            ours(at, scenario, concurrency, folder / f"warm-{concurrency}")
            seen: dict[str, list[Seen]] = {"vllm": [], "ours": []}
            for turn in range(rounds):
                for tool in ("vllm", "ours") if turn % 2 == 0 else ("ours", "vllm"):
                    time.sleep(0.3)
                    if tool == "vllm":
                        seen[tool].append(theirs(bench, at, prompts, count, concurrency))
                    else:
                        seen[tool].append(ours(at, scenario, concurrency, folder / f"ours-{concurrency}-{turn}"))
            yield concurrency, seen


def closed_loop(prompts: Path, count: int) -> Scenario:
    return validate_scenario(
        {
            "about": "agreement",
            "mode": "closed",
            "curve": {"shape": "constant", "level": 1, "seconds": 300},
            "warm_up": 0,
            "requests": count,
            "mix": [{"name": "file", "type": "file", "path": str(prompts), "output": OUTPUT}],
        },
        "agreement",
    )
