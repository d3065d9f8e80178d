"""`vllm bench serve` and hybridserve's load test give the same results for the same prompts on the same server.

`make test` compares the token counts. `make test-loadtest-agreement` compares times at concurrency 1, 8 and 32
(LOADTEST_AGREEMENT=1,8,32). A round is one run of each tool; other load affects both alike, so the gap is the median of
the ratios of rounds, with a bootstrap interval.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from vllm_bench import VllmBench, vllm_bench

from hybridserve.loadtest.runner import Runner
from hybridserve.loadtest.scenario import Scenario, validate_scenario
from support.loadtest_mock import mock_server
from support.stack_service import Service

pytestmark = pytest.mark.stack

CONCURRENCY = [int(level) for level in os.environ.get("LOADTEST_AGREEMENT", "1,8").split(",")]
ROUNDS = int(os.environ.get("LOADTEST_AGREEMENT_ROUNDS", "4"))
OUTPUT = 32
TOLERANCE = 0.03
WORDS = ["cache", "state", "slot", "token", "plan", "server", "block", "prompt", "answer", "model", "memory", "page"]
TIMES = ("ttft", "itl", "tpot", "e2e", "throughput")


@dataclass(frozen=True)
class Measured:
    """A run of one tool. Milliseconds; tokens/s."""

    ttft: float
    itl: float
    tpot: float
    e2e: float
    throughput: float
    input_tokens: int
    output_tokens: int


def run_vllm(bench: VllmBench, url: str, model: str, prompts: Path, count: int, concurrency: int) -> Measured:
    flags = ["--backend", "openai", "--base-url", url, "--model", model]
    flags += ["--tokenizer", str(Path("src/hybridserve/demo_model").resolve()), "--dataset-name", "custom"]
    flags += ["--dataset-path", str(prompts), "--custom-output-len", str(OUTPUT), "--num-prompts", str(count)]
    flags += ["--max-concurrency", str(concurrency), "--disable-shuffle", "--skip-chat-template", "--ignore-eos"]
    flags += ["--temperature", "0", "--disable-tqdm", "--percentile-metrics", "ttft,tpot,itl,e2el"]
    result = bench.run(flags)
    assert (result["completed"], result["failed"]) == (count, 0)
    medians = [result[f"median_{name}_ms"] for name in ("ttft", "itl", "tpot", "e2el")]
    return Measured(*medians, result["output_throughput"], result["total_input_tokens"], result["total_output_tokens"])


def run_hybridserve(url: str, model: str, scenario: Scenario, concurrency: int, out: Path) -> Measured:
    summary = Runner.connect(url, None, model, scenario).run(scenario.at_level(concurrency), out).summary
    assert summary.outcomes == {"ok": summary.attempted}, summary.outcomes
    assert summary.usage_share == 1.0
    medians = [getattr(summary, name).p50 * 1000 for name in TIMES[:-1]]
    return Measured(*medians, summary.output_throughput, summary.prompt_tokens, summary.output_tokens)


def paired_gap(vllm: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Median over the rounds of ours / vllm - 1, and its 95 % bootstrap interval."""
    ratios = [b / a - 1 for a, b in zip(vllm, ours, strict=True)]
    source = random.Random(1)
    medians = sorted(median(source.choices(ratios, k=len(ratios))) for _ in range(2000))
    return median(ratios), medians[50], medians[1949]


def test_token_counts_agree(service: Service, tmp_path: Path) -> None:
    for concurrency, runs in rounds_of(service.url, service.model, 1, 2, tmp_path):
        (vllm,), (ours,) = runs["vllm"], runs["ours"]
        assert (ours.input_tokens, ours.output_tokens) == (vllm.input_tokens, vllm.output_tokens), concurrency
        assert ours.output_tokens >= 10 * OUTPUT


@pytest.mark.agreement
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("words", [24, 360])
def test_times_agree_with_vllm_bench(
    words: int, service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures, lines = [], []
    for concurrency, runs in rounds_of(service.url, service.model, ROUNDS, 4, tmp_path, words):
        for name in TIMES:
            a, b = ([getattr(run, name) for run in runs[tool]] for tool in ("vllm", "ours"))
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
        tokens = {(run.input_tokens, run.output_tokens) for tool in runs.values() for run in tool}
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
def test_times_of_a_server_with_known_delays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """200 ms to the first token, then 20 ms each. The best round counts, since other load only adds time."""
    lines, failures = [], []
    with mock_server("--first", "0.2", "--gap", "0.02") as url:
        for concurrency, runs in rounds_of(url, "mock", 3, 2, tmp_path):
            whole = 200 + 20 * (OUTPUT - 1)
            for name, value in zip(TIMES, (200, 20, 20, whole, concurrency * OUTPUT / whole * 1000), strict=True):
                vllm, ours = (
                    min((getattr(run, name) / value - 1 for run in runs[tool]), key=abs) for tool in ("vllm", "ours")
                )
                lines.append(f"{concurrency:>4}  {name:<12}{value:>10.2f}{vllm:>9.1%}{ours:>9.1%}")
                if abs(ours) > max(TOLERANCE, abs(vllm)):
                    failures.append(lines[-1])
    with capsys.disabled():
        print(f"\n   c  {'':<12}{'truth':>10}{'vllm':>9}{'ours':>9}   (error of the best of 3 rounds)")
        print("\n".join(lines))
    assert not failures, failures


def rounds_of(
    url: str, model: str, rounds: int, waves: int, folder: Path, words: int = 24
) -> Iterator[tuple[int, dict[str, list[Measured]]]]:
    """For each concurrency the runs of both tools. The tool that starts alternates."""
    with vllm_bench() as bench:
        for concurrency in CONCURRENCY:
            count = max(10 // concurrency, waves) * concurrency
            prompts = folder / f"prompts-{concurrency}.jsonl"
            texts = [" ".join(WORDS[(index * 7 + step * step) % 12] for step in range(words)) for index in range(count)]
            prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
            scenario = validate_scenario(
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
            # Not counted: fills the prefix cache and warms the kernels.
            run_hybridserve(url, model, scenario, concurrency, folder / f"warm-{concurrency}")
            runs: dict[str, list[Measured]] = {"vllm": [], "ours": []}
            for turn in range(rounds):
                for tool in ("vllm", "ours") if turn % 2 == 0 else ("ours", "vllm"):
                    time.sleep(0.3)
                    if tool == "vllm":
                        runs[tool].append(run_vllm(bench, url, model, prompts, count, concurrency))
                    else:
                        out = folder / f"ours-{concurrency}-{turn}"
                        runs[tool].append(run_hybridserve(url, model, scenario, concurrency, out))
            yield concurrency, runs
