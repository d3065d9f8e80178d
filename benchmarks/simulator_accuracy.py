"""Compare the simulator with a real service: the same requests at the same times, simulated and measured.

    python benchmarks/simulator_accuracy.py latency --calibration my-engine.yaml --rates 1,4,8

sends Poisson arrivals at each rate (requests/s) and compares TTFT, inter-token time and throughput; with
`--trace chat.trace.csv --from-s 600 --every 4` it sends every fourth request of a recorded trace instead.

    hybridserve serve --set scaling.max_replicas=2 --set scaling.start_up_s=45 --set engine.max_num_seqs=2 &
    python benchmarks/simulator_accuracy.py replicas --calibration my-engine.yaml --max-num-seqs 2 --start-up 45

sends phases of low, high and low rate and compares when the autoscaler changes the number of replicas. Both print a
Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from calibrate import Stream, served_model, stream

from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.simulator.fleet import FleetOptions, simulate
from hybridserve.simulator.policies import Fixed, HybridServePolicy
from hybridserve.simulator.service_times import ServiceTimes, load_service_times
from hybridserve.simulator.traffic import read_trace

DESIRED, READY = "hybridserve_autoscaler_desired_replicas", "hybridserve_autoscaler_ready_replicas"
# The processes of a machine share a range of metrics ports; the controller has one of the first.
PORTS = range(9464, 9472)
# Prompt and answer together stay within the demo model's 4,096 tokens.
LONGEST = 3000
Arrivals = list[tuple[float, int, int]]
Changes = list[tuple[float, int]]


def main() -> None:
    """Send, simulate, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["latency", "replicas"])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--rates", help="requests/s; default 1,4,8, or 0.3,8,0.3 for replicas")
    parser.add_argument("--seconds", help="duration of each rate; default 30, or 60,120,150 for replicas")
    parser.add_argument("--trace", type=Path, help="latency: send these recorded requests instead of --rates")
    parser.add_argument("--from-s", type=float, default=0.0, help="seconds of the trace to leave out")
    parser.add_argument("--every", type=int, default=1, help="send every n-th request of the trace")
    parser.add_argument("--replicas", type=int, default=1, help="replicas of the service, for latency")
    parser.add_argument("--max-num-seqs", type=int, help="engine.max_num_seqs of the service, for replicas")
    parser.add_argument("--start-up", type=float, help="scaling.start_up_s of the service, for replicas")
    options = parser.parse_args()
    times = load_service_times(options.calibration)
    if options.mode == "latency":
        seconds = float(options.seconds or 30)
        if options.trace:
            traffic = {options.trace.name: slice_of_trace(options.trace, options.from_s, seconds, options.every)}
        else:
            rates = numbers(options.rates or "1,4,8")
            traffic = {f"{rate:g}/s": poisson_arrivals([(rate, seconds)]) for rate in rates}
        compare_latency(options.url, times, traffic, options.replicas)
        return
    if options.max_num_seqs is None or options.start_up is None:
        parser.error("replicas needs --max-num-seqs and --start-up")
    engine = times.engine.model_copy(update={"max_num_seqs": options.max_num_seqs})
    times = times.model_copy(update={"engine": engine, "start_up_s": options.start_up})
    phases = zip(numbers(options.rates or "0.3,8,0.3"), numbers(options.seconds or "60,120,150"), strict=True)
    compare_replicas(options.url, times, list(phases))


def numbers(text: str) -> list[float]:
    """A list of numbers separated by commas."""
    return [float(part) for part in text.split(",")]


def poisson_arrivals(phases: Sequence[tuple[float, float]]) -> Arrivals:
    """Poisson arrivals of each (rate, seconds), with uniformly distributed lengths."""
    source, now, until, arrivals = random.Random(7), 0.0, 0.0, []
    for rate, seconds in phases:
        now, until = until, until + seconds
        while (now := now + source.expovariate(rate)) < until:
            arrivals.append((now, source.randint(16, 512), source.randint(16, 96)))
    return arrivals


def slice_of_trace(path: Path, start: float, seconds: float, every: int) -> Arrivals:
    """Every n-th recorded request of a part of a trace, from time 0; lengths within the context."""
    chosen = [arrival for arrival in read_trace(path) if start <= arrival[0] < start + seconds][::every]
    return [(due - start, min(prompt, LONGEST), min(output, LONGEST // 4)) for due, prompt, output in chosen]


async def send(url: str, arrivals: Arrivals, seconds: float = 0.0) -> tuple[list[Stream], float, Changes, Changes]:
    """Send each request at its time. With `seconds`, also record the autoscaler's metrics for so long."""
    source = random.Random(11)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False, limits=limits) as client:
        model = await served_model(client)
        port = await controller_port(client) if seconds else 0
        began = time.perf_counter()

        async def send_one(due: float, prompt: int, output: int) -> Stream:
            await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
            return await stream(client, model, prompt, output, source)

        async def watch() -> dict[str, Changes]:
            changes: dict[str, Changes] = {DESIRED: [], READY: []}
            while (now := time.perf_counter() - began) < seconds:
                for name, count in (await gauges(client, port)).items():
                    if not changes[name] or changes[name][-1][1] != count:
                        changes[name].append((now, count))
                await asyncio.sleep(1)
            return changes

        watcher = asyncio.create_task(watch())
        answers = await asyncio.gather(*(send_one(*arrival) for arrival in arrivals))
        elapsed = time.perf_counter() - began
        changes = await watcher
        return answers, elapsed, changes[DESIRED], changes[READY]


async def controller_port(client: httpx.AsyncClient) -> int:
    """The metrics port of the controller."""
    for port in PORTS:
        try:
            if READY in await gauges(client, port):
                return port
        except httpx.HTTPError:
            continue
    raise SystemExit(f"no port from {PORTS[0]} to {PORTS[-1]} has {READY}: telemetry.metrics_port must be the default")


async def gauges(client: httpx.AsyncClient, port: int) -> dict[str, int]:
    """The autoscaler's two gauges, as far as they are there."""
    text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith((DESIRED, READY))]
    return {name.split("{")[0]: round(float(value)) for name, value in lines}


def compare_latency(url: str, times: ServiceTimes, traffic: dict[str, Arrivals], replicas: int) -> None:
    """Print simulated and measured figures for each kind of traffic."""
    print("| traffic | figure | simulated | measured | error |\n|---|---|---|---|---|")
    errors = []
    for kind, arrivals in traffic.items():
        answers, elapsed, _, _ = asyncio.run(send(url, arrivals))
        options = FleetOptions(initial=replicas, max_replicas=replicas, period_s=0.25)
        requests = simulate(arrivals, times, Fixed(replicas), options).requests
        output = sum(length for _, _, length in arrivals)
        simulated = figures(
            [request.ttft + times.request_overhead_s for request in requests],
            [request.inter_token for request in requests],
            output / max(request.last for request in requests),
        )
        measured = figures([answer.first_s for answer in answers], [a.gap_s for a in answers], output / elapsed)
        for name, value in simulated.items():
            error = value / measured[name] - 1
            errors.append(abs(error))
            print(f"| {kind} | {name} | {value:.4g} | {measured[name]:.4g} | {error:+.0%} |", flush=True)
    print(f"median absolute error {statistics.median(errors):.0%}", file=sys.stderr)


def figures(firsts: list[float], gaps: list[float], rate: float) -> dict[str, float]:
    """The figures to compare."""
    return {
        "TTFT p50 s": statistics.median(firsts),
        "TTFT p95 s": sorted(firsts)[int(0.95 * (len(firsts) - 1))],
        "inter-token p50 s": statistics.median(gaps),
        "output tokens/s": rate,
    }


def compare_replicas(url: str, times: ServiceTimes, phases: list[tuple[float, float]]) -> None:
    """Print simulated and measured changes of the number of replicas."""
    arrivals = poisson_arrivals(phases)
    _, _, desired, ready = asyncio.run(send(url, arrivals, sum(seconds for _, seconds in phases)))
    spec = ScalingSpec(capacity=times.capacity(), max_replicas=2, start_up_s=times.start_up_s)
    simulated = simulate(
        arrivals, times, HybridServePolicy(spec), FleetOptions(initial=1, max_replicas=2, slo=spec.slo)
    ).targets
    print("phases: " + ", ".join(f"{seconds:g} s of {rate:g} requests/s" for rate, seconds in phases))
    print("\n| replicas | simulated | measured |\n|---|---|---|")
    print(f"| desired | {as_text(simulated)} | {as_text(desired)} |")
    print(f"| ready | - | {as_text(ready)} |")


def as_text(changes: Changes) -> str:
    """The counts with their times."""
    return ", ".join(f"{count} at {time:.0f} s" for time, count in changes)


if __name__ == "__main__":
    main()
