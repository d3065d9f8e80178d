"""What the data path costs: one streaming workload, interleaved, against vLLM itself, ours, and Ray Serve LLM.

    python benchmarks/overhead.py                       # the door on vLLM's own server
    python benchmarks/overhead.py --paths --json        # and the data paths, beside Ray Serve LLM's own

`vllm`, `keys`, `rules` and `guard model` are one process and one engine on four ports, so that only the control layer
differs: vLLM's app alone; with keys and limits; with the rules guard on top; with a guard model instead that answers
after 50 ms. `haproxy`, `proxy` and `single` are `hybridserve serve` on each data path, with keys and limits; `ray
default` is Ray Serve LLM's own ingress. All get the same engine arguments. Every round visits all of them in a new
order; ratios are taken round by round. Client and servers share the machine: trust ratios, not figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from hybridserve.planning.engine_args import engine_args
from hybridserve.planning.render import command_line, llm_config
from hybridserve.serving.middleware.keys import key_line, new_key
from hybridserve.settings import Settings, load

PROMPT = "Tell me about the sea, the ships on it and the people who sail them."
GUARD_S = 0.05
PATHS = ("haproxy", "proxy", "single", "ray default")
# A request that takes longer counts as failed; nothing here may hang.
LONGEST_S = 180.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and whose processor time they cost."""

    name: str
    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One round of one target: medians over requests in ms, requests a second, processor ms a request."""

    ttft_ms: float
    itl_ms: float
    total_ms: float
    rps: float
    cpu_ms: float
    failed: int


# --- client: raw sockets, so that it costs little beside what it measures


async def one(port: int, key: str, tokens: int) -> tuple[float, float, float, int] | None:
    """One streamed chat: seconds to the first text, to the last, to the end, and pieces of text; None if it failed."""
    body = json.dumps(
        {
            "model": "demo",
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
    ).encode()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    first = last = 0.0
    pieces, done = 0, False
    try:
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                done = True
            elif line.startswith(b"data: {") and (b'"content":"' in line or b'"reasoning":"' in line):
                if b'"content":""' in line and b'"reasoning":"' not in line:
                    continue
                last = time.perf_counter()
                first = first or last
                pieces += 1
    finally:
        writer.close()
    end = time.perf_counter()
    return (first - start, last - start, end - start, pieces) if done and pieces > 1 else None


async def drive(port: int, key: str, concurrency: int, requests: int, tokens: int) -> tuple[list[Any], float]:
    """A closed loop: so many clients share so many requests. Results, and seconds for all."""
    results: list[Any] = []
    left = requests

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            try:
                results.append(await asyncio.wait_for(one(port, key, tokens), LONGEST_S))
            except (OSError, TimeoutError):
                results.append(None)

    start = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(concurrency)])
    return results, time.perf_counter() - start


def measure(target: Target, key: str, concurrency: int, requests: int, tokens: int) -> Figures:
    """One round of one target."""
    port = int(target.url.rsplit(":", 1)[1])
    before = processor_seconds(target.pid)
    results, seconds = asyncio.run(drive(port, key, concurrency, requests, tokens))
    cost = processor_seconds(target.pid) - before
    good = [result for result in results if result is not None]
    if not good:
        raise SystemExit(f"{target.name}: no request succeeded")
    return Figures(
        ttft_ms=statistics.median(first for first, _, _, _ in good) * 1000,
        itl_ms=statistics.median((last - first) / (pieces - 1) for first, last, _, pieces in good) * 1000,
        total_ms=statistics.median(end for _, _, end, _ in good) * 1000,
        rps=len(good) / seconds,
        cpu_ms=cost / len(results) * 1000,
        failed=len(results) - len(good),
    )


def processor_seconds(pid: int) -> float:
    """User and system time of a process and everything below it."""
    total = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


# --- servers


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A child in a session of its own, ended with everything it started."""
    with log.open("w") as out:
        child = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, env={**os.environ, **(environment or {})}
        )
    try:
        yield child.pid
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def wait_for(target: Target, key: str, log: Path, timeout_s: float = 400) -> None:
    """Until a chat was answered."""
    deadline = time.monotonic() + timeout_s
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    while True:
        if time.monotonic() > deadline or psutil.Process(target.pid).status() == psutil.STATUS_ZOMBIE:
            raise SystemExit(f"{target.name} did not start:\n{log.read_text()[-2000:]}")
        try:
            url = f"{target.url}/v1/chat/completions"
            if httpx.post(url, json=body, headers={"authorization": f"Bearer {key}"}, timeout=60).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def door_settings(keys: Path, guard_url: str) -> dict[str, dict[str, Any]]:
    """Settings behind each door, as plain data."""
    access = {"keys_file": str(keys), "max_output_tokens": 4096, "max_in_flight": 1000}
    model = {"kind": "model", "url": guard_url, "model": "stub", "format": "llama_guard", "input": "overlap"}
    return {
        "keys": {"access": access},
        "rules": {"access": access, "guard": {"kind": "rules"}},
        "guard model": {"access": access, "guard": model},
    }


def serve_doors(words: list[str], ports: dict[str, int], settings: dict[str, dict[str, Any]]) -> None:
    """Run vLLM's own server app on several ports: alone, and behind each door. Never returns by itself."""
    import uvicorn
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from hybridserve.serving.middleware import ControlMiddleware

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(words)

    async def go() -> None:
        async with build_async_engine_client(args) as engine:
            tasks = await engine.get_supported_tasks()
            app = build_app(args, tasks, engine.model_config)
            await init_app_state(engine, app.state, args, tasks)
            apps: dict[str, Any] = {"vllm": app}
            for name, tree in settings.items():
                apps[name] = ControlMiddleware(app, Settings.model_validate(tree))
            servers = [
                uvicorn.Server(
                    uvicorn.Config(apps[name], port=port, log_level="warning", access_log=False, lifespan="off")
                )
                for name, port in ports.items()
            ]
            await asyncio.gather(*[server.serve() for server in servers])

    asyncio.run(go())


def serve_stub(port: int) -> None:
    """A guard model that finds everything safe after a fixed time."""
    import uvicorn

    answer = json.dumps({"choices": [{"message": {"content": "safe"}, "finish_reason": "stop"}]}).encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(GUARD_S)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


def serve_ray_default(config: dict[str, Any], port: int) -> None:
    """Ray Serve LLM with its own ingress."""
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    ray.init(num_cpus=8, include_dashboard=False, object_store_memory=100 * 1024 * 1024)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_openai_app({"llm_configs": [LLMConfig(**config)]}), blocking=True)


# --- the comparison


def main() -> None:
    """Start what is compared, run the rounds, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3, help="requests of one client in one round")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--doors", nargs="*", default=["keys", "rules", "guard model"], help="which doors to compare")
    parser.add_argument(
        "--paths", nargs="*", default=[], choices=PATHS, help="also hybridserve serve, and Ray Serve LLM's own ingress"
    )
    parser.add_argument("-c", "--config", type=Path, help="settings; the demo model on this CPU when left out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        kind, rest = json.loads(asked.child)
        servers: dict[str, Callable[..., None]] = {"doors": serve_doors, "stub": serve_stub, "ray": serve_ray_default}
        servers[kind](**rest)
        return
    settings = load(asked.config).settings
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder), settings, asked)
    if asked.json:
        print(json.dumps({"cores": os.cpu_count(), "tokens": asked.tokens, "rows": rows}, indent=2))
        return
    print(
        f"{'c':>3} {'target':<14}{'ttft ms':>9}{'itl ms':>8}{'total ms':>10}{'rps':>7}{'cpu ms':>8}   ratio to its base"
    )
    for row in rows:
        figures = row["median"]
        line = f"{row['concurrency']:>3} {row['target']:<14}{figures['ttft_ms']:>9.1f}{figures['itl_ms']:>8.1f}"
        line += f"{figures['total_ms']:>10.0f}{figures['rps']:>7.1f}{figures['cpu_ms']:>8.0f}   "
        ratio = row["ratio"]
        words = [f"{name} {ratio[name]:.2f}" for name in ("ttft_ms", "itl_ms", "rps", "cpu_ms")]
        print(line + (f"{row['base']}: {', '.join(words)}" if row["base"] != row["target"] else ""))


def compare(folder: Path, settings: Settings, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """All rounds of all targets at all concurrencies."""
    key = new_key()
    keys = folder / "keys.txt"
    keys.write_text(key_line("bench", key, ("inference",), rpm=10**6, tpm=10**9, streams=1000) + "\n")
    stub, base = free_port(), {name: free_port() for name in ("vllm", *asked.doors)}
    args = {**engine_args(settings), "served_model_name": "demo"}
    words = [*command_line(args)[3:], "--model", str(args["model"])]
    known = door_settings(keys, f"http://127.0.0.1:{stub}")
    doors = {"words": words, "ports": base, "settings": {name: known[name] for name in asked.doors}}
    with (
        running(child("stub", port=stub), folder / "stub.log"),
        running(child("doors", **doors), folder / "doors.log") as pid,
    ):
        targets = [Target(name, f"http://127.0.0.1:{port}", pid) for name, port in base.items()]
        for target in targets:
            wait_for(target, key, folder / "doors.log")
        if not asked.paths:
            return rounds(targets, key, asked)
        with ExitStack() as stack:
            for name in asked.paths:
                port, log = free_port(), folder / f"{name}.log"
                command = ray_default(settings, args, port) if name == "ray default" else ours(name, port, keys, asked)
                owner = stack.enter_context(running(command, log))
                targets.append(Target(name, f"http://127.0.0.1:{port}", owner))
                wait_for(targets[-1], key, log)
            return rounds(targets, key, asked)


def ours(path: str, port: int, keys: Path, asked: argparse.Namespace) -> list[str]:
    """`hybridserve serve` on one data path."""
    command = [str(Path(sys.executable).parent / "hybridserve"), "serve", "--port", str(port), "--data-path", path]
    command += ["--set", f"access.keys_file={keys}", "--set", "access.max_in_flight=1000"]
    command += ["--set", "model.served_name=demo"]
    return command + (["-c", str(asked.config)] if asked.config else [])


def ray_default(settings: Settings, args: dict[str, Any], port: int) -> list[str]:
    """Ray Serve LLM's own application for the same engine."""
    config = llm_config(settings, args)
    config["model_loading_config"]["model_id"] = "demo"
    return child("ray", config=config, port=port)


def child(kind: str, **rest: Any) -> list[str]:
    """This file again, as one of the servers."""
    return [sys.executable, __file__, "--child", json.dumps([kind, rest])]


def rounds(targets: list[Target], key: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians of every target, and medians of its ratios to its base within each round."""
    rows = []
    for concurrency in asked.concurrency:
        taken: dict[str, list[Figures]] = {target.name: [] for target in targets}
        for number in range(-1, asked.rounds):
            for target in random.sample(targets, len(targets)):
                figures = measure(target, key, concurrency, concurrency * asked.requests, asked.tokens)
                if number >= 0:  # the first round warms up
                    taken[target.name].append(figures)
            print(
                f"concurrency {concurrency}: round {max(number, 0) + (number >= 0)} of {asked.rounds}", file=sys.stderr
            )
        for target in targets:
            base = "ray default" if target.name in PATHS and "ray default" in taken else "vllm"
            pairs = list(zip(taken[target.name], taken[base], strict=True))
            names = [name for name in asdict(taken[base][0]) if name != "failed"]
            rows.append(
                {
                    "concurrency": concurrency,
                    "target": target.name,
                    "base": base,
                    "median": {n: statistics.median(getattr(f, n) for f in taken[target.name]) for n in names},
                    "ratio": {n: statistics.median(getattr(a, n) / getattr(b, n) for a, b in pairs) for n in names},
                    "failed": sum(f.failed for f in taken[target.name]),
                }
            )
    return rows


if __name__ == "__main__":
    main()
