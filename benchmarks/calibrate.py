"""Fit the simulator's service times to a running server, over HTTP: `make calibrate`.

    hybridserve serve --port 8000 &
    python benchmarks/calibrate.py --url http://127.0.0.1:8000 --start-up 45 --out my-engine.yaml

Alone on the server it measures the time to first token for growing prompts, and the time between tokens for growing
numbers of streams with short and with long prompts. Then it fits the law of one engine step by least squares, and
states the median relative error of the fit against what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import httpx
import numpy as np
import yaml

from hybridserve.engine.spec import replica_capacity
from hybridserve.planning.resolve import plan_settings
from hybridserve.settings import load
from hybridserve.simulator.service_times import parse_service_times

PROMPTS = (8, 64, 256, 512, 1024)
LONG_PROMPT = 1024
OUTPUT = 48
PAUSE_S = 0.3


@dataclass(frozen=True)
class Stream:
    """One answer: tokens of its prompt and output, seconds to the first and between the others."""

    prompt: int
    output: int
    first_s: float
    gap_s: float


def main() -> None:
    """Measure, fit, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("-c", "--config", type=Path, help="settings the server was started with")
    parser.add_argument("--start-up", type=float, required=True, help="seconds from asking for a replica until ready")
    parser.add_argument("--name", default="demo model on this CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    settings = load(asked.config, ()).settings
    planned = plan_settings(settings)
    capacity = replica_capacity(settings, planned)
    with httpx.Client(base_url=asked.url, timeout=60, trust_env=False) as client:
        model = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
    budget = planned.advice.plan.max_num_batched_tokens
    streams = [n for n in (1, 2, 4, 8, 16, 32) if n <= capacity.max_num_seqs]
    firsts, gaps = asyncio.run(measure(asked.url, model, streams, asked.repeats))

    # Time between tokens: fixed + per_sequence * n + per_context_token * context.
    rows = np.array([[1.0, n, n * (one.prompt + one.output / 2)] for n, one in gaps])
    fixed, per_sequence, per_context = nonnegative(rows, np.array([one.gap_s for _, one in gaps]))
    predicted = rows @ np.array([fixed, per_sequence, per_context])
    gap_error = statistics.median(abs(p - one.gap_s) / one.gap_s for p, (_, one) in zip(predicted, gaps, strict=True))
    # Time to first token: overhead + steps * fixed + per_sequence + per_prompt_token * prompt.
    rest = np.array([one.first_s - fixed * -(-one.prompt // budget) - per_sequence for one in firsts])
    columns = np.array([[1.0, one.prompt] for one in firsts])
    overhead, per_prompt = nonnegative(columns, rest)
    known = [fixed * -(-one.prompt // budget) + per_sequence for one in firsts]
    first_error = statistics.median(
        abs(overhead + per_prompt * one.prompt + base - one.first_s) / one.first_s
        for base, one in zip(known, firsts, strict=True)
    )
    tree = {
        "name": asked.name,
        "kind": "measured",
        "source": f"benchmarks/calibrate.py, {date.today()}: {len(firsts)} prompts of {PROMPTS[0]} to {PROMPTS[-1]} "
        f"tokens, {len(gaps)} streams, {streams[0]} to {streams[-1]} at once",
        "step": {
            "fixed_s": float(f"{max(fixed, 1e-6):.4g}"),
            "per_sequence_s": float(f"{per_sequence:.4g}"),
            "per_context_token_s": float(f"{per_context:.4g}"),
            "per_prompt_token_s": float(f"{max(per_prompt, 1e-9):.4g}"),
        },
        "engine": {
            "max_num_seqs": capacity.max_num_seqs,
            "max_num_batched_tokens": budget,
            "align_prefill": settings.engine.enable_prefix_caching is not False,
        },
        "cache": {
            "usable_blocks": capacity.usable_blocks,
            "block_size": capacity.block_size,
            "state_blocks": capacity.state_blocks,
            "growing_groups": capacity.growing_groups,
        },
        "request_overhead_s": float(f"{overhead:.4g}"),
        "start_up_s": asked.start_up,
        "error": {"ttft": round(float(first_error), 3), "inter_token": round(float(gap_error), 3)},
    }
    text = yaml.safe_dump(tree, sort_keys=False, width=110)
    parse_service_times(text, "calibration")
    if asked.out is None:
        print(text, end="")
    else:
        asked.out.write_text(text)
    print(f"median error of the fit: TTFT {first_error:.0%}, inter-token {gap_error:.0%}", file=sys.stderr)


async def measure(
    url: str, model: str, counts: list[int], repeats: int
) -> tuple[list[Stream], list[tuple[int, Stream]]]:
    """Prompts alone, then streams together. The first round of each is thrown away: kernels warm up."""
    source = random.Random(1)
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        firsts, gaps = [], []
        for repeat in range(repeats + 1):
            for prompt in PROMPTS:
                # In life requests come with gaps: an engine that was just asked answers up to 12 ms sooner.
                await asyncio.sleep(PAUSE_S)
                one = await stream(client, model, prompt, 1, source)
                if repeat:
                    firsts.append(one)
            for prompt in (16, LONG_PROMPT):
                for count in counts:
                    together = [stream(client, model, prompt, OUTPUT, source) for _ in range(count)]
                    answers = await asyncio.gather(*together)
                    if repeat:
                        gaps += [(count, one) for one in answers]
            print(f"round {repeat} of {repeats}", file=sys.stderr, flush=True)
    return firsts, gaps


async def stream(client: httpx.AsyncClient, model: str, prompt: int, output: int, source: random.Random) -> Stream:
    """One completion of random token ids, so that no prefix is ever cached."""
    body = {
        "model": model,
        "prompt": [source.randint(100, 900) for _ in range(prompt)],
        "max_tokens": output,
        "min_tokens": output,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    began = time.perf_counter()
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"the server answered {answer.status_code}: {(await answer.aread()).decode()[:300]}")
        times = [time.perf_counter() async for line in answer.aiter_lines() if line.startswith("data: {")]
    gap = (times[-1] - times[0]) / max(1, output - 1)
    return Stream(prompt, output, times[0] - began, gap)


def nonnegative(rows: np.ndarray, values: np.ndarray) -> list[float]:
    """Least squares of relative errors with coefficients of at least 0: negative ones are dropped, one by one."""
    weights = 1 / values
    active = list(range(rows.shape[1]))
    while True:
        found, *_ = np.linalg.lstsq(rows[:, active] * weights[:, None], values * weights, rcond=None)
        if (found >= 0).all() or len(active) == 1:
            break
        active.pop(int(np.argmin(found)))
    result = [0.0] * rows.shape[1]
    for index, value in zip(active, found, strict=True):
        result[index] = max(0.0, float(value))
    return result


if __name__ == "__main__":
    main()
