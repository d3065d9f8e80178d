"""Cost of the gateway and the data path: one streaming workload, interleaved, against vLLM and Ray Serve LLM.

    python benchmarks/overhead.py                                    # all parts, about 25 minutes
    python benchmarks/overhead.py --parts ingress --seconds 300        # one of them, for five minutes
    python benchmarks/overhead_table.py .cache/overhead docs/evidence/overhead.md

Targets: `vllm serve`; `ray default`, Ray Serve LLM's own ingress; and `hybridserve serve` on a data path, with several
variants of the gateway in one process: `bare` (no gateway), `keys` (keys and limits, the product's own), `rules` (with
the pattern guard) and `guard model` (with a guard model that answers after 50 ms). All get the same engine arguments
and the same requests. A part starts its servers and measures all its targets, each round in a new order, for the given
time (an equal share for each concurrency, at least one round). The part `layer` has only `bare` and `keys`, so that it
has enough rounds to measure a few percent. Every round is one line of `.cache/overhead/PART.jsonl`: an interrupted part
keeps its rounds, and a part that runs again adds to them; `--fresh` starts over.

Client and servers share the machine, and the other services idle meanwhile: use ratios within a part, not figures.
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
# Servers of each part, and variants of hybridserve.
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "layer": {"haproxy": ("bare", "keys")},
    "ingress": {VLLM: (), RAY: (), "haproxy": ("bare", "keys", "rules", "guard model")},
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
    parser.add_argument("--fresh", action="store_true", help="discard earlier rounds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        rows = options.out / f"{part}.jsonl"
        if options.fresh:
            rows.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="oh-", ignore_cleanup_errors=True) as folder, ExitStack() as stack:
            key = new_key()
            targets = start(part, Path(folder), options.config, key, stack)
            say(f"{part}: {len(targets)} targets are up")
            rounds(part, targets, key, options, rows)


def start(part: str, folder: Path, config: Path | None, key: str, stack: ExitStack) -> list[Target]:
    """Start the servers of a part, one after another, and wait for each."""
    keys = folder / "keys.txt"
    keys.write_text(key_line("bench", key, ("inference",), rpm=10**6, tpm=10**9, streams=1000) + "\n")
    stub = free_port()
    stack.enter_context(running("stub", folder / "stub.log", port=stub))
    targets = []
    for server, variants in PARTS[part].items():
        port, log = free_port(), folder / f"{server}.log"
        settings = settings_for(config, server if variants else "single", port, keys)
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
            environment = {
                "OVERHEAD_GUARDS": json.dumps({variant: guards[variant] for variant in variants if variant in guards})
            }
            pid = stack.enter_context(running("ours", log, environment, settings=settings.model_dump(mode="json")))
        wait_for(server, pid, port, key, log)
        targets += [Target(server, port, pid)] if not variants else ours(server, port, pid, variants)
    return targets


def settings_for(config: Path | None, path: str, port: int, keys: Path) -> Settings:
    """Equal settings for every server except data path and port."""
    words = [f"server.data_path={path}", f"server.port={port}", "server.host=127.0.0.1", "model.served_name=demo"]
    words += [f"access.keys_file={keys}", "access.max_in_flight=1000", "access.max_output_tokens=4096"]
    return load(config, words).settings


def guard_settings(url: str) -> dict[str, dict[str, Any]]:
    """The guards, as settings."""
    model = {"kind": "model", "url": url, "model": "stub", "format": "llama_guard", "input": "overlap"}
    return {"rules": {"kind": "rules"}, "guard model": model}


def ours(path: str, port: int, pid: int, variants: tuple[str, ...]) -> list[Target]:
    """A target for each variant of one service."""
    base = f"{path}, bare" if "bare" in variants else None
    return [
        Target(f"{path}, {variant}", port, pid, variant, base if variant != "bare" else None) for variant in variants
    ]


def rounds(part: str, targets: list[Target], key: str, options: argparse.Namespace, rows: Path) -> None:
    """Measure all targets, round by round, within the part's time."""
    share = options.seconds / len(options.concurrency)
    for target in targets:  # warm: first requests compile and fill caches
        measure(target, key, 8, 24, options.tokens)
    for concurrency in options.concurrency:
        deadline, number = time.monotonic() + share, 0
        while number == 0 or time.monotonic() < deadline:
            requests = max(8, 2 * concurrency)  # short, so that a burst of other load affects all targets alike
            taken = {t.name: measure(t, key, concurrency, requests, options.tokens) for t in shuffled(targets)}
            row = {
                "concurrency": concurrency,
                "tokens": options.tokens,
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
    """Print progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
