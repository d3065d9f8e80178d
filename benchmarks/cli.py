#!/usr/bin/env python3
"""Time of the offline commands from a cold start, and of a plan inside a process: `make bench-cli`.

Every command runs in a new process, in turn with `python -c pass`, so that other load affects both. Wall time
and processor time are given: on an idle machine they are nearly the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hybridserve.planning.cache.layout import plan_cache
from hybridserve.planning.deployment import plan_deployment
from hybridserve.planning.resolve import plan_settings
from hybridserve.settings import load

ROOT = Path(__file__).resolve().parent.parent
HYBRIDSERVE = str(Path(sys.executable).parent / "hybridserve")
EXAMPLE = str(ROOT / "deploy/examples/nemotron-nano-9b-v2-production.yaml")
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "hybridserve plan": [HYBRIDSERVE, "plan", "nemotron-nano-9b-v2", "--gpu", "a10g"],
    "hybridserve plan --json": [HYBRIDSERVE, "plan", "nemotron-nano-9b-v2", "--gpu", "a10g", "--json"],
    "hybridserve check": [HYBRIDSERVE, "check", "-c", EXAMPLE, "--profile", "production"],
    "hybridserve check --json": [HYBRIDSERVE, "check", "-c", EXAMPLE, "--profile", "production", "--json"],
    "hybridserve config show": [HYBRIDSERVE, "config", "show"],
}


# Median wall seconds of a cold start, and processor seconds of a plan.
LIMITS_S = {"hybridserve plan": 0.25, "hybridserve check": 0.25, "cache": 0.001, "10,000 of the cache": 5.0}


def measure(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of each command, `rounds` times, interleaved; the first round warms the page cache."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            began, used = time.perf_counter(), _children()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if number:
                seconds[name].append((time.perf_counter() - began, _children() - used))
    return seconds


def plans() -> dict[str, float]:
    """Processor seconds of plans of Nemotron Nano 9B v2 on an A10G, in this process."""
    settings = load(assignments=["model.id=nemotron-nano-9b-v2", "accelerator.name=a10g"], environ={}).settings
    deployment = plan_settings(settings).advice.plan.deployment
    arch, cache = deployment.arch, replace(deployment.cache, kv_bytes=4 << 30)
    return {
        "cache": _each(lambda: plan_cache(arch, cache), 1000),
        "memory and cache": _each(lambda: plan_deployment(deployment), 200),
        "with recommendation": _each(lambda: plan_settings(settings), 50),
        "10,000 of the cache": _each(lambda: [plan_cache(arch, cache) for _ in range(10_000)], 1),
    }


def _each(work: Callable[[], object], times: int) -> float:
    work()
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print median and range."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 if a limit is exceeded")
    options = parser.parse_args()
    figures = {
        name: {
            "median_s": statistics.median(wall for wall, _ in values),
            "least_s": min(wall for wall, _ in values),
            "most_s": max(wall for wall, _ in values),
            "processor_s": statistics.median(used for _, used in values),
        }
        for name, values in measure(options.rounds).items()
    }
    inside = plans()
    if options.json:
        print(json.dumps({"commands": figures, "plans_processor_s": inside}))
    else:
        for name, row in figures.items():
            wall = f"{row['median_s']:.3f} s  ({row['least_s']:.3f} to {row['most_s']:.3f})"
            print(f"{name:26} {wall}, processor {row['processor_s']:.3f} s")
        for name, seconds in inside.items():
            print(f"plan, {name:20} {seconds * 1e3:.2f} ms of processor time")
    measured = {name: row["median_s"] for name, row in figures.items()} | inside
    exceeded = [
        f"{name}: {measured[name]:.4f} s, limit {limit} s" for name, limit in LIMITS_S.items() if measured[name] > limit
    ]
    if options.check and exceeded:
        raise SystemExit("\n".join(exceeded))


if __name__ == "__main__":
    main()
