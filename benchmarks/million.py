"""How long the simulator takes for a fleet: a million requests on up to a thousand replicas under the law.

python benchmarks/million.py
"""

from __future__ import annotations

import argparse
import random
import time

from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.simulator.fleet import FleetOptions, simulate
from hybridserve.simulator.policies import HybridServePolicy
from hybridserve.simulator.score import DEFAULT_SLO, score
from hybridserve.simulator.service_times import load_service_times


def main() -> None:
    """Replay steady chat, and print seconds of processor time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=800.0, help="requests/s")
    asked = parser.parse_args()
    times = load_service_times("nano-9b-a10g")
    source = random.Random(1)
    arrivals = [
        (index / asked.rate, source.randint(100, 900), source.randint(100, 500)) for index in range(asked.requests)
    ]
    spec = ScalingSpec(capacity=times.capacity(), max_replicas=1000, start_up_s=times.start_up_s)
    began, wall = time.process_time(), time.monotonic()
    run = simulate(arrivals, times, HybridServePolicy(spec), FleetOptions(max_replicas=1000, initial=1000))
    seconds = time.process_time() - began
    result = score(run, DEFAULT_SLO, times.request_overhead_s)
    print(
        f"{result.requests:,} requests, {max(count for _, count in run.targets)} replicas at most, "
        f"{result.replica_hours / (run.seconds / 3600):.0f} on average: {seconds:.0f} s of one core "
        f"({time.monotonic() - wall:.0f} s on the clock), {result.requests / seconds:,.0f} requests/s"
    )


if __name__ == "__main__":
    main()
