#!/usr/bin/env python3
"""How long the offline verbs take from a cold start: `make bench-cli`.

Every verb runs in a process of its own, in turn with `python -c pass`, so that a busy machine shows in both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

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


def measure(rounds: int) -> dict[str, list[float]]:
    """Wall seconds of each command, `rounds` times, interleaved; the first round warms the page cache."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Print median and range."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = {
        name: {"median_s": statistics.median(values), "least_s": min(values), "most_s": max(values)}
        for name, values in measure(options.rounds).items()
    }
    if options.json:
        print(json.dumps(figures))
        return
    for name, row in figures.items():
        print(f"{name:26} {row['median_s']:.3f} s  ({row['least_s']:.3f} to {row['most_s']:.3f})")


if __name__ == "__main__":
    main()
