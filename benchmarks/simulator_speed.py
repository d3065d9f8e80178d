"""Speed of the simulator: a million requests on up to a thousand replicas under this package's policy.

python benchmarks/simulator_speed.py

Exit code 1: fewer than --least requests per second of processor time.
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


def main() -> int:
    """Replay steady chat and print the processor time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=800.0, help="requests/s")
    parser.add_argument("--least", type=float, default=2000.0, help="required requests per second of processor time")
    options = parser.parse_args()
    times = load_service_times("nano-9b-a10g")
    source = random.Random(1)
    arrivals = [
        (index / options.rate, source.randint(100, 900), source.randint(100, 500)) for index in range(options.requests)
    ]
    spec = ScalingSpec(capacity=times.capacity(), max_replicas=1000, start_up_s=times.start_up_s)
    began, wall = time.process_time(), time.monotonic()
    run = simulate(
        arrivals, times, HybridServePolicy(spec), FleetOptions(max_replicas=1000, initial=1000, slo=spec.slo)
    )
    seconds = time.process_time() - began
    result = score(run, DEFAULT_SLO, times.request_overhead_s)
    print(
        f"{result.requests:,} requests, at most {max(count for _, count in run.targets)} replicas, "
        f"{result.replica_hours / (run.seconds / 3600):.0f} on average: {seconds:.0f} s of processor time "
        f"({time.monotonic() - wall:.0f} s elapsed), {result.requests / seconds:,.0f} requests/s"
    )
    return int(result.requests / seconds < options.least)


if __name__ == "__main__":
    raise SystemExit(main())
