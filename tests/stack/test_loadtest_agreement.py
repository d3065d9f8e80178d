"""The same prompts, the same server, in turn: `vllm bench serve` and hybridserve's load test must tell the same story.

`make test-loadtest-agreement` runs concurrency 1, 8 and 32 with more rounds (LOADTEST_AGREEMENT=1,8,32).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from stack_service import Service
from vllm_bench import VllmBench, vllm_bench

from hybridserve.loadtest.preflight import preflight
from hybridserve.loadtest.run import Bench, Result
from hybridserve.loadtest.scenario import Scenario, validate_scenario

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


def theirs(bench: VllmBench, service: Service, prompts: Path, count: int, concurrency: int) -> Seen:
    flags = ["--backend", "openai", "--base-url", service.url, "--model", service.model]
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


def ours(service: Service, scenario: Scenario, concurrency: int, out: Path) -> Seen:
    target = preflight(service.url, None, service.model, scenario)
    result: Result = Bench(service.url, None, target).run(scenario.at_level(concurrency), out)
    one = result.summary
    assert one.outcomes == {"ok": one.attempted}, one.outcomes
    assert one.usage_share == 1.0
    assert one.ttft is not None
    assert one.itl is not None
    assert one.tpot is not None
    assert one.e2e is not None
    medians = [spread.p50 * 1000 for spread in (one.ttft, one.itl, one.tpot, one.e2e)]
    return Seen(*medians, one.output_throughput, one.prompt_tokens, one.output_tokens)


@pytest.mark.timeout(540)
def test_agrees_with_vllm_bench(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failures, lines = [], []
    with vllm_bench() as bench:
        for concurrency in CONCURRENCY:
            count = max(10, 4 * concurrency)
            prompts = tmp_path / f"prompts-{concurrency}.jsonl"
            texts = [" ".join(WORDS[(index * 7 + step * step) % 12] for step in range(24)) for index in range(count)]
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
            # Not counted: every prompt is known to the cache, and every kernel warm, before the first round.
            ours(service, scenario, concurrency, tmp_path / f"warm-{concurrency}")
            seen: dict[str, list[Seen]] = {"vllm": [], "ours": []}
            for turn in range(ROUNDS):
                for tool in ("vllm", "ours") if turn % 2 == 0 else ("ours", "vllm"):
                    time.sleep(0.3)
                    if tool == "vllm":
                        seen[tool].append(theirs(bench, service, prompts, count, concurrency))
                    else:
                        out = tmp_path / f"ours-{concurrency}-{turn}"
                        seen[tool].append(ours(service, scenario, concurrency, out))
            for name in ("ttft", "itl", "tpot", "e2e", "throughput"):
                a, b = ([getattr(one, name) for one in seen[tool]] for tool in ("vllm", "ours"))
                gap = median(b) / median(a) - 1
                spread = max((max(side) - min(side)) / median(a) for side in (a, b))
                agreed = abs(gap) <= max(TOLERANCE, spread)
                lines.append(
                    f"{concurrency:>4}  {name:<12}{median(a):>10.2f}{median(b):>10.2f}{gap:>9.1%}{spread:>9.1%}"
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
            f"\n   c  {'median':<12}{'vllm':>10}{'ours':>10}{'gap':>9}{'spread':>9}   ({ROUNDS} rounds; ms, tokens/s)"
        )
        print("\n".join(lines))
    assert not failures, failures
