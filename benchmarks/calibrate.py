"""Fit the simulator's service times to a running server, over HTTP: `make calibrate`.

    hybridserve serve --port 8000 &
    python benchmarks/calibrate.py --url http://127.0.0.1:8000 --start-up 45 --out my-engine.yaml

`--replicas 2` measures a service of two replicas; on one machine they compete for its processor.

On an idle server it measures the time to first token of growing prompts, and the time between tokens of growing numbers
of streams with short and long prompts. It fits the times of an engine step by least squares and reports the median
relative error.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median

import httpx
import yaml

from hybridserve.deployment.resolve import resolve_deployment
from hybridserve.loadtest.sweep import StepTimes, calibration, nonnegative_least_squares
from hybridserve.planning.cache.reuse import CacheGrid, chunk_ends
from hybridserve.settings import load
from hybridserve.simulator.service_times import parse_service_times

PROMPTS = (8, 64, 256, 512, 1024)
LONG_PROMPT = 1024
OUTPUT = 48
PAUSE_S = 0.3


@dataclass(frozen=True)
class Stream:
    """An answer: prompt and output tokens, seconds to the first token and between tokens."""

    prompt: int
    output: int
    first_s: float
    gap_s: float


def main() -> None:
    """Measure, fit, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("-c", "--config", type=Path, help="settings of the server")
    parser.add_argument("--start-up", type=float, required=True, help="start-up time of a replica in seconds")
    parser.add_argument("--name", default="demo model on this CPU")
    parser.add_argument(
        "--replicas", type=int, default=1, help="replicas of the service; they share the streams evenly"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = load(options.config, ()).settings
    spec = resolve_deployment(settings)
    capacity, budget = spec.capacity, spec.engine_args["max_num_batched_tokens"]
    counts = [count for count in (1, 2, 4, 8, 16, 32) if count <= capacity.max_num_seqs]
    firsts, gaps = asyncio.run(measure(options.url, counts, options.repeats, options.replicas))
    engine = {
        "max_num_seqs": capacity.max_num_seqs,
        "max_num_batched_tokens": budget,
        "align_prefill": settings.engine.enable_prefix_caching is not False,
    }
    if engine["align_prefill"]:
        engine["prefix_match_unit"] = spec.engine_args.get("prefix_match_unit") or capacity.block_size
    names = ("usable_blocks", "block_size", "state_blocks", "growing_groups")
    cache = {name: getattr(capacity, name) for name in names}
    about = (
        f"benchmarks/calibrate.py, {date.today()}: {len(firsts)} prompts of {PROMPTS[0]} to {PROMPTS[-1]} tokens, "
        f"{len(gaps)} streams, {counts[0]} to {counts[-1]} at once on each of {options.replicas} replicas"
    )
    unit = engine.get("prefix_match_unit")
    times = fit(firsts, gaps, lambda prompt: prefill_steps(prompt, capacity.block_size, unit, budget))
    tree = calibration(times, engine, cache, options.start_up, about) | {"name": options.name}
    text = yaml.safe_dump(tree, sort_keys=False, width=110)
    parse_service_times(text, "calibration")
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text)
    print(
        f"median error of the fit: TTFT {times.ttft_error:.0%}, inter-token {times.inter_token_error:.0%}",
        file=sys.stderr,
    )


def prefill_steps(prompt: int, block: int, unit: int | None, budget: int) -> int:
    """Engine steps of a prompt that runs alone; no `unit`: no states are cached."""
    if unit is None:
        return -(-prompt // budget)
    return len(chunk_ends(CacheGrid(block, unit, block, budget, 1, 1, 1), prompt, 0, 0)[0])


def fit(firsts: Sequence[Stream], gaps: Sequence[tuple[int, Stream]], steps: Callable[[int], int]) -> StepTimes:
    """Fit the time between tokens first, then the time to first token with its result."""
    rows = [[1.0, count, count * (answer.prompt + answer.output / 2)] for count, answer in gaps]
    values = [answer.gap_s for _, answer in gaps]
    fixed, per_sequence, per_context = nonnegative_least_squares(rows, values)
    # TTFT = overhead + steps * fixed + per_sequence + per_prompt_token * prompt.
    known = [fixed * steps(answer.prompt) + per_sequence for answer in firsts]
    rests = [max(1e-6, answer.first_s - base) for base, answer in zip(known, firsts, strict=True)]
    overhead, per_prompt = nonnegative_least_squares([[1.0, answer.prompt] for answer in firsts], rests)
    gap_error = median(
        abs(fixed + per_sequence * row[1] + per_context * row[2] - value) / value
        for row, value in zip(rows, values, strict=True)
    )
    first_error = median(
        abs(overhead + per_prompt * answer.prompt + base - answer.first_s) / answer.first_s
        for base, answer in zip(known, firsts, strict=True)
    )
    return StepTimes(fixed, per_sequence, per_context, per_prompt, overhead, first_error, gap_error)


async def measure(
    url: str, counts: list[int], repeats: int, replicas: int
) -> tuple[list[Stream], list[tuple[int, Stream]]]:
    """Single prompts, then simultaneous streams, `counts` on each replica.

    The first round is discarded: it warms up the kernels.
    """
    source = random.Random(1)
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        model = await served_model(client)
        firsts, gaps = [], []
        for repeat in range(repeats + 1):
            for prompt in PROMPTS * replicas:
                # A pause as between real requests: directly after a request the engine answers up to 12 ms earlier.
                await asyncio.sleep(PAUSE_S)
                answer = await stream(client, model, prompt, 1, source)
                if repeat:
                    firsts.append(answer)
            for prompt in (16, LONG_PROMPT):
                for count in counts:
                    together = [stream(client, model, prompt, OUTPUT, source) for _ in range(count * replicas)]
                    answers = await asyncio.gather(*together)
                    if repeat:
                        gaps += [(count, answer) for answer in answers]
            print(f"round {repeat} of {repeats}", file=sys.stderr, flush=True)
    return firsts, gaps


async def served_model(client: httpx.AsyncClient) -> str:
    """The name of the first served model."""
    return str((await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"])


async def stream(client: httpx.AsyncClient, model: str, prompt: int, output: int, source: random.Random) -> Stream:
    """A completion of random token ids, so that no prefix is cached."""
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
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"HTTP {response.status_code}: {(await response.aread()).decode()[:300]}")
        times = [time.perf_counter() async for line in response.aiter_lines() if line.startswith("data: {")]
    return Stream(prompt, output, times[0] - began, (times[-1] - times[0]) / max(1, output - 1))


if __name__ == "__main__":
    main()
