"""What the control layer and the data path cost: one streaming workload, interleaved, against vLLM and Ray Serve LLM.

    python benchmarks/overhead.py                                    # all parts, about 25 minutes
    python benchmarks/overhead.py --parts doors --seconds 300        # one of them, for five minutes
    python benchmarks/overhead_table.py .cache/overhead docs/evidence/overhead.md

Targets: `vllm serve`; `ray default`, Ray Serve LLM's own ingress; and `hybridserve serve` on a data path, with doors to
choose from in one process: `bare` (none: the data path it sits on), `keys` (keys and limits, the product's own),
`rules` (the rules guard on top) and `guard model` (a guard model that answers after 50 ms). All get the same engine
arguments and the same requests. A part starts its servers and visits all its targets, each round in a new order, until
its seconds are spent (an equal share for each concurrency, one round at least). The part `layer` has nothing but `bare`
and `keys`, for rounds enough to tell a few percent. Every round is one line of `.cache/overhead/PART.jsonl`: a part
that was cut short is not lost, and one that runs again adds to what is there; `--fresh` begins anew.

Client and servers share the machine, and the services that are not asked idle beside the one that is: trust ratios
within a part, not figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from overhead_client import Target, measure
from overhead_servers import free_port, running, wait_for

from hybridserve.gateway.auth.api_keys import key_line, new_key
from hybridserve.planning.render import command_line, llm_config
from hybridserve.planning.resolve import engine_args
from hybridserve.settings import Settings, load

VLLM, RAY = "vllm serve", "ray default"
OUT = Path(".cache/overhead")
# What stands in each part: servers, and the doors of ours.
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "layer": {"haproxy": ("bare", "keys")},
    "doors": {VLLM: (), RAY: (), "haproxy": ("bare", "keys", "rules", "guard model")},
    "paths": {RAY: (), "single": ("keys",), "haproxy": ("keys",), "proxy": ("keys",)},
}


def main() -> None:
    """Run the parts, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=360, help="for the rounds of one part")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("-c", "--config", type=Path, help="settings; the demo model on this CPU when left out")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--fresh", action="store_true", help="throw away what was measured before")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for part in asked.parts:
        rows = asked.out / f"{part}.jsonl"
        if asked.fresh:
            rows.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="oh-", ignore_cleanup_errors=True) as folder, ExitStack() as stack:
            key = new_key()
            targets = start(part, Path(folder), asked.config, key, stack)
            say(f"{part}: {len(targets)} targets are up")
            rounds(part, targets, key, asked, rows)


def start(part: str, folder: Path, config: Path | None, key: str, stack: ExitStack) -> list[Target]:
    """Start the servers of a part, one after another, and wait for each."""
    keys = folder / "keys.txt"
    keys.write_text(key_line("bench", key, ("inference",), rpm=10**6, tpm=10**9, streams=1000) + "\n")
    stub = free_port()
    stack.enter_context(running("stub", folder / "stub.log", port=stub))
    targets = []
    for server, doors in PARTS[part].items():
        port, log = free_port(), folder / f"{server}.log"
        settings = settings_for(config, server if doors else "single", port, keys)
        args = engine_args(settings)
        if server == VLLM:
            words = ["--model", *command_line(args, "127.0.0.1", port)[2:], "--disable-uvicorn-access-log"]
            pid = stack.enter_context(running("vllm", log, words=words))
        elif server == RAY:
            (folder / "ray").mkdir()
            rest: dict[str, Any] = {"config": llm_config(settings, args), "port": port, "folder": str(folder / "ray")}
            pid = stack.enter_context(running(RAY, log, **rest))
        else:
            guards = guard_settings(f"http://127.0.0.1:{stub}")
            environment = {"OVERHEAD_GUARDS": json.dumps({door: guards[door] for door in doors if door in guards})}
            pid = stack.enter_context(running("ours", log, environment, settings=settings.model_dump(mode="json")))
        wait_for(server, pid, port, key, log)
        targets += [Target(server, port, pid)] if not doors else ours(server, port, pid, doors)
    return targets


def settings_for(config: Path | None, path: str, port: int, keys: Path) -> Settings:
    """The same settings for every server, but for the way to it."""
    words = [f"server.data_path={path}", f"server.port={port}", "server.host=127.0.0.1", "model.served_name=demo"]
    words += [f"access.keys_file={keys}", "access.max_in_flight=1000", "access.max_output_tokens=4096"]
    return load(config, words).settings


def guard_settings(url: str) -> dict[str, dict[str, Any]]:
    """The guards, as settings."""
    model = {"kind": "model", "url": url, "model": "stub", "format": "llama_guard", "input": "overlap"}
    return {"rules": {"kind": "rules"}, "guard model": model}


def ours(path: str, port: int, pid: int, doors: tuple[str, ...]) -> list[Target]:
    """A target for each door of one service."""
    base = f"{path}, bare" if "bare" in doors else None
    return [Target(f"{path}, {door}", port, pid, door, base if door != "bare" else None) for door in doors]


def rounds(part: str, targets: list[Target], key: str, asked: argparse.Namespace, rows: Path) -> None:
    """Visit all targets, round by round, within the part's seconds."""
    share = asked.seconds / len(asked.concurrency)
    for target in targets:  # warm: first requests compile and fill caches
        measure(target, key, 8, 24, asked.tokens)
    for concurrency in asked.concurrency:
        deadline, number = time.monotonic() + share, 0
        while number == 0 or time.monotonic() < deadline:
            requests = max(8, 2 * concurrency)  # short visits: a neighbour's burst then hits all targets alike
            taken = {t.name: measure(t, key, concurrency, requests, asked.tokens) for t in shuffled(targets)}
            row = {
                "concurrency": concurrency,
                "tokens": asked.tokens,
                "cores": os.cpu_count(),
                "targets": {t.name: {"base": t.base, **asdict(taken[t.name])} for t in targets},
            }
            with rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            number += 1
        say(f"{part}: concurrency {concurrency}, {number} rounds")


def shuffled(targets: list[Target]) -> list[Target]:
    """A new order."""
    return random.sample(targets, len(targets))


def say(line: str) -> None:
    """Where it is, for whoever waits."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
