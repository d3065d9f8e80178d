"""Time from the command to the first token: `hybridserve serve` against vLLM's own server, in pairs.

    python benchmarks/start.py --pairs 3

Both get the same engine arguments. Ready means that a chat completion has been answered. Pairs alternate in order, so
that a machine that slows down affects both; the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx

from hybridserve.planning.render import command_line
from hybridserve.planning.resolve import engine_args
from hybridserve.settings import load

BIN = Path(sys.executable).parent


def main() -> None:
    """Run the pairs and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--default-vllm", action="store_true", help="vLLM with its own defaults: graphs are compiled")
    asked = parser.parse_args()
    runs: list[dict[str, float]] = []
    for pair in range(asked.pairs):
        order = ["hybridserve", "vllm"] if pair % 2 == 0 else ["vllm", "hybridserve"]
        figures = {name: first_token(command(name, asked.default_vllm)) for name in order}
        runs.append(figures)
        print(f"pair {pair + 1}: " + ", ".join(f"{name} {figures[name]:.1f} s" for name in figures), file=sys.stderr)
    ratios = [run["hybridserve"] / run["vllm"] for run in runs]
    result = {
        "hybridserve_s": statistics.median(run["hybridserve"] for run in runs),
        "vllm_s": statistics.median(run["vllm"] for run in runs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "pairs": runs,
        "cores": os.cpu_count(),
    }
    if asked.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"hybridserve {result['hybridserve_s']:.1f} s, vllm {result['vllm_s']:.1f} s (medians)")
        print(f"ratio {result['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) over {len(runs)} pairs")


def command(name: str, default_vllm: bool) -> tuple[list[str], int]:
    """The command to start, and its port."""
    port = free_port()
    if name == "hybridserve":
        return [str(BIN / "hybridserve"), "serve", "--port", str(port)], port
    args = engine_args(load(environ={}).settings)
    if default_vllm:
        args.pop("enforce_eager", None)
    words = command_line(args, host="127.0.0.1", port=port)
    return [str(BIN / words[0]), *words[1:]], port


def first_token(started: tuple[list[str], int]) -> float:
    """Seconds from the command to an answered chat completion; the server is ended after that."""
    words, port = started
    begin = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    try:
        while time.monotonic() - begin < 300:
            if process.poll() is not None:
                raise SystemExit(f"{words[0]} ended with exit code {process.returncode}")
            try:
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                if httpx.post(url, json=body, timeout=60, trust_env=False).status_code == 200:
                    return time.monotonic() - begin
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise SystemExit(f"{words[0]} did not answer in 300 s")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
