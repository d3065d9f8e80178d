"""The replica timeline of the simulator against the real service: the same requests, the same law.

    hybridserve serve --set scaling.max_replicas=2 --set scaling.start_up_s=45 --set engine.max_num_seqs=2 &
    python benchmarks/timeline.py --calibration my-engine.yaml --max-num-seqs 2 --start-up 45

Sends a low, a high and a low rate, one after the other, and asks the controller's metrics every second how many
replicas are wanted and ready. Prints when each number changed, simulated and measured, as a table of Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time

import httpx
from calibrate import stream

from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.simulator.fleet import FleetOptions, simulate
from hybridserve.simulator.policies import HybridServePolicy
from hybridserve.simulator.service_times import ServiceTimes, load_service_times

WANTED, READY = "hybridserve_autoscaler_desired_replicas", "hybridserve_autoscaler_ready_replicas"
# Processes of one machine share a range of metrics ports; the controller has one of the first.
PORTS = range(9464, 9472)
Changes = list[tuple[float, int]]


def main() -> None:
    """Send, watch, simulate, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True, help="as the service was started with")
    parser.add_argument("--start-up", type=float, required=True, help="scaling.start_up_s of the service")
    parser.add_argument("--rates", default="0.3,8,0.3", help="requests/s of each phase")
    parser.add_argument("--seconds", default="60,120,150", help="length of each phase")
    asked = parser.parse_args()
    times = load_service_times(asked.calibration)
    engine = times.engine.model_copy(update={"max_num_seqs": asked.max_num_seqs})
    times = times.model_copy(update={"engine": engine, "start_up_s": asked.start_up})
    phases = list(zip(map(float, asked.rates.split(",")), map(float, asked.seconds.split(",")), strict=True))
    arrivals = draw(phases)
    wanted, ready = asyncio.run(measure(asked.url, arrivals, sum(seconds for _, seconds in phases)))
    print("phases: " + ", ".join(f"{seconds:g} s of {rate:g} requests/s" for rate, seconds in phases))
    print("\n| replicas | simulated | measured |\n|---|---|---|")
    print(f"| wanted | {told(predict(arrivals, times))} | {told(wanted)} |")
    print(f"| ready | - | {told(ready)} |")


def draw(phases: list[tuple[float, float]]) -> list[tuple[float, int, int]]:
    """Poisson arrivals of each phase, lengths as in `validate`."""
    source, now, until, arrivals = random.Random(7), 0.0, 0.0, []
    for rate, seconds in phases:
        now, until = until, until + seconds
        while (now := now + source.expovariate(rate)) < until:
            arrivals.append((now, source.randint(16, 512), source.randint(16, 96)))
    return arrivals


async def measure(url: str, arrivals: list[tuple[float, int, int]], seconds: float) -> tuple[Changes, Changes]:
    """Open loop, and the controller's numbers once a second."""
    source = random.Random(11)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False, limits=limits) as client:
        model = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        port = await controller(client)
        began = time.perf_counter()

        async def one(at: float, prompt: int, output: int) -> None:
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            await stream(client, model, prompt, output, source)

        async def watch() -> tuple[Changes, Changes]:
            found: dict[str, Changes] = {WANTED: [], READY: []}
            while time.perf_counter() < began + seconds:
                said = await numbers(client, port)
                for name, changes in found.items():
                    if name in said and (not changes or changes[-1][1] != said[name]):
                        changes.append((time.perf_counter() - began, said[name]))
                await asyncio.sleep(1)
            return found[WANTED], found[READY]

        watched = asyncio.create_task(watch())
        await asyncio.gather(*(one(*arrival) for arrival in arrivals))
        return await watched


async def controller(client: httpx.AsyncClient) -> int:
    """The metrics port on which the controller speaks."""
    for port in PORTS:
        try:
            if READY in await numbers(client, port):
                return port
        except httpx.HTTPError:
            continue
    raise SystemExit(f"no port from {PORTS[0]} to {PORTS[-1]} has {READY}: is telemetry.metrics_port the default?")


async def numbers(client: httpx.AsyncClient, port: int) -> dict[str, int]:
    """The two gauges, where they are."""
    text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith((WANTED, READY))]
    return {name.split("{")[0]: round(float(value)) for name, value in lines}


def predict(arrivals: list[tuple[float, int, int]], times: ServiceTimes) -> Changes:
    """Replicas asked for in the simulator."""
    spec = ScalingSpec(capacity=times.capacity(), max_replicas=2, start_up_s=times.start_up_s)
    options = FleetOptions(initial=1, max_replicas=2)
    return simulate(arrivals, times, HybridServePolicy(spec), options).targets


def told(changes: Changes) -> str:
    """The numbers with their times."""
    return ", ".join(f"{count} at {at:.0f} s" for at, count in changes)


if __name__ == "__main__":
    main()
