"""The simulator against the real server: the same requests at the same times, predicted and measured.

    python benchmarks/validate.py --url http://127.0.0.1:8000 --calibration my-engine.yaml --rates 1,4,8

For each rate (requests per second) it draws Poisson arrivals, sends them to the running server and replays them in the
simulator with as many replicas. Prints both and the relative error, as a table of Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time

import httpx
from calibrate import Stream, stream

from hybridserve.simulator.fleet import FleetOptions, simulate
from hybridserve.simulator.policies import Fixed
from hybridserve.simulator.service_times import ServiceTimes, load_service_times

Figures = dict[str, float]


def main() -> None:
    """Send, simulate, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--rates", default="1,4,8")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--replicas", type=int, default=1)
    asked = parser.parse_args()
    times = load_service_times(asked.calibration)
    with httpx.Client(base_url=asked.url, timeout=60, trust_env=False) as client:
        model = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
    print("| requests/s | figure | simulated | measured | error |\n|---|---|---|---|---|")
    errors = []
    for rate in (float(text) for text in asked.rates.split(",")):
        arrivals = draw(rate, asked.seconds)
        real = asyncio.run(send(asked.url, model, arrivals))
        predicted = predict(arrivals, times, asked.replicas)
        for name, value in predicted.items():
            error = value / real[name] - 1
            errors.append(abs(error))
            print(f"| {rate:g} | {name} | {value:.4g} | {real[name]:.4g} | {error:+.0%} |", flush=True)
    print(f"median absolute error {statistics.median(errors):.0%}", file=sys.stderr)


def draw(rate: float, seconds: float) -> list[tuple[float, int, int]]:
    """Poisson arrivals with even spread of lengths."""
    source, now, arrivals = random.Random(7), 0.0, []
    while True:
        now += source.expovariate(rate)
        if now > seconds:
            return arrivals
        arrivals.append((now, source.randint(16, 512), source.randint(16, 96)))


async def send(url: str, model: str, arrivals: list[tuple[float, int, int]]) -> Figures:
    """Open loop: each request at its time, whatever became of those before."""
    source = random.Random(11)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False, limits=limits) as client:
        began = time.perf_counter()

        async def one(at: float, prompt: int, output: int) -> Stream:
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            return await stream(client, model, prompt, output, source)

        answers = await asyncio.gather(*(one(*arrival) for arrival in arrivals))
        seconds = time.perf_counter() - began
    return figures([a.first_s for a in answers], [a.gap_s for a in answers], sum(a.output for a in answers) / seconds)


def predict(arrivals: list[tuple[float, int, int]], times: ServiceTimes, replicas: int) -> Figures:
    """The same in the simulator."""
    options = FleetOptions(initial=replicas, max_replicas=replicas, period_s=0.25)
    run = simulate(arrivals, times, Fixed(replicas), options)
    firsts = [r.first - r.arrived + times.request_overhead_s for r in run.requests]
    gaps = [(r.last - r.first) / max(1, r.output - 1) for r in run.requests]
    tokens = sum(r.output for r in run.requests)
    return figures(firsts, gaps, tokens / max(r.last for r in run.requests))


def figures(firsts: list[float], gaps: list[float], rate: float) -> Figures:
    """Medians and the tail."""
    return {
        "TTFT p50 s": statistics.median(firsts),
        "TTFT p95 s": sorted(firsts)[int(0.95 * (len(firsts) - 1))],
        "inter-token p50 s": statistics.median(gaps),
        "output tokens/s": rate,
    }


if __name__ == "__main__":
    main()
