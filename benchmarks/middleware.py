"""Cost of the gateway alone: microseconds for a request and for a chunk, against the same app without it.

The last line is the cost of counting prefix reuse, in time and memory.

There is no engine and no socket: the app sends prepared chunks in a loop, so the difference is the gateway's code. The
gateway updates Prometheus metrics and writes its log line to a file, as in production.
Example: python benchmarks/middleware.py --json; exit status 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time, thread_time
from typing import Any

from prometheus_client import CollectorRegistry

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.auth.api_keys import key_line, new_key
from hybridserve.gateway.state import GatewayState
from hybridserve.observability.collectors.prefix_reuse import PrefixReuseCollector
from hybridserve.observability.logging import LOG_DIR, configure
from hybridserve.observability.metrics import EngineMetrics, GatewayMetrics
from hybridserve.planning.cache.reuse import MAX_ENTRIES, CacheGrid, ReuseAccount
from hybridserve.settings import Settings

REQUEST_LIMIT_US = 200.0
CHUNK_LIMIT_US = 20.0
# Accounting of a request of 2,000 prompt tokens: the event loop's part as a chunk, all of it as a request.
REUSE_LIMITS = {"loop_us": CHUNK_LIMIT_US, "request_us": REQUEST_LIMIT_US, "full_mib": 64.0}


class Speaker:
    """An app that streams `chunks` ready-made events."""

    def __init__(self, chunks: int) -> None:
        word = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        body = {
            **word,
            "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}],
        }
        event = b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
        self._pieces = [event] * chunks + [b"data: [DONE]\n\n"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def scope_and_body(key: str | None) -> tuple[dict[str, Any], bytes]:
    """A chat request of ordinary size, as uvicorn would hand it over."""
    body = json.dumps(
        {
            "model": "demo",
            "messages": [
                {"role": "system", "content": "You are a helpful assistant. " * 5},
                {"role": "user", "content": "Tell me something about the sea. " * 10},
            ],
            "stream": True,
            "max_tokens": 200,
        }
    ).encode()
    headers = [
        (b"host", b"127.0.0.1:8000"),
        (b"accept", b"application/json"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"OpenAI/Python"),
        (b"content-length", str(len(body)).encode()),
    ]
    if key is not None:
        headers.append((b"authorization", f"Bearer {key}".encode()))
    path = "/v1/chat/completions"
    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b"", "headers": headers}
    return scope, body


async def once(app: Any, scope: dict[str, Any], body: bytes) -> None:
    """One request by a client that reads at once."""
    first = True
    forever = asyncio.get_running_loop().create_future()

    async def receive() -> dict[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        await forever
        raise AssertionError

    async def send(_: Any) -> None:
        return

    await app(dict(scope), receive, send)


def rounds(apps: dict[str, Any], key: str, repeat: int, calls: int) -> dict[str, float]:
    """Least microseconds of processor time of one call of each app; the least excludes other load on the machine."""
    scope, body = scope_and_body(key)
    taken: dict[str, list[float]] = {name: [] for name in apps}

    async def go() -> None:
        for app in apps.values():
            for _ in range(calls):
                await once(app, scope, body)
        for _ in range(repeat):
            for name, app in apps.items():
                start = process_time()
                for _ in range(calls):
                    await once(app, scope, body)
                taken[name].append((process_time() - start) / calls * 1e6)

    gc.collect()
    asyncio.run(go())
    return {name: min(values) for name, values in taken.items()}


def modes(folder: Path, key: str) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """The app alone, and behind the gateway with increasingly many features."""
    file = folder / "keys.txt"
    file.write_text(key_line("bench", key, ("inference",), rpm=10**9, tpm=10**12, streams=10**6))
    access = {"keys_file": str(file), "max_output_tokens": 4096, "max_in_flight": 10**6}
    configure(Settings().telemetry, {LOG_DIR: str(folder)})
    metrics = GatewayMetrics()

    def gateway(**tree: Any) -> Callable[[Any], Any]:
        state = GatewayState(DeploymentSpec(settings=Settings.model_validate(tree)), metrics=metrics)
        return lambda app: GatewayMiddleware(app, state=state)

    yield "no middleware", lambda app: app
    yield "open", gateway()
    yield "keys and limits", gateway(access=access)
    yield "keys, limits, rules guard", gateway(access=access, guard={"kind": "rules"})


def accounting(repeat: int) -> dict[str, float]:
    """Cost of counting reuse: microseconds of the event loop and in all for 2,000 prompt tokens, MiB of full tables."""
    grid, source = CacheGrid(384, 32, 384, 2312, 1, 2, 1 << 30), random.Random(1)
    collector = PrefixReuseCollector(EngineMetrics(CollectorRegistry()), grid, lambda: 1000)
    loop, whole = [], []
    for _ in range(repeat):
        prompts = [source.choices(range(100, 900), k=2000) for _ in range(40)]
        start = thread_time()
        for prompt in prompts[:20]:
            collector.finished(prompt, prompt[:200], 0, "")
        loop.append((thread_time() - start) / 20 * 1e6)
        start = thread_time()
        for prompt in prompts[20:]:
            collector.record(prompt, prompt[:200], 0)
        whole.append((thread_time() - start) / 20 * 1e6)
    tracemalloc.start()
    account = ReuseAccount(grid)
    for _ in range(MAX_ENTRIES + 1):  # short prompts: as many states as hashes
        hashes = [source.getrandbits(61) for _ in range(3)]
        account.record(hashes, hashes, 50, 51, 0)
    full = tracemalloc.get_traced_memory()[0] / (1 << 20)
    tracemalloc.stop()
    return {"loop_us": round(min(loop), 1), "request_us": round(min(whole), 1), "full_mib": round(full, 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    key = new_key()
    with tempfile.TemporaryDirectory() as folder:
        kinds = list(modes(Path(folder), key))
        short = rounds({name: make(Speaker(1)) for name, make in kinds}, key, options.repeat, 200)
        long = rounds({name: make(Speaker(501)) for name, make in kinds}, key, options.repeat, 10)
    base = "no middleware"
    rows = []
    for name, _ in kinds[1:]:
        request = short[name] - short[base]
        chunk = ((long[name] - long[base]) - request) / 500
        rows.append({"mode": name, "request_us": round(request, 1), "chunk_us": round(chunk, 2)})
    missed = [row for row in rows if row["request_us"] > REQUEST_LIMIT_US or row["chunk_us"] > CHUNK_LIMIT_US]
    reuse = accounting(options.repeat)
    failed = bool(missed) or any(reuse[name] > limit for name, limit in REUSE_LIMITS.items())
    if options.json:
        limits = {"request_us": REQUEST_LIMIT_US, "chunk_us": CHUNK_LIMIT_US, "prefix_reuse": REUSE_LIMITS}
        print(json.dumps({"limits": limits, "rows": rows, "prefix_reuse": reuse}))
        sys.exit(1 if failed else 0)
    print(f"{'mode':<28}{'us / request':>14}{'us / chunk':>12}    (limits {REQUEST_LIMIT_US:g} and {CHUNK_LIMIT_US:g})")
    for row in rows:
        print(f"{row['mode']:<28}{row['request_us']:>14}{row['chunk_us']:>12}{'    MISSED' if row in missed else ''}")
    costs = ", ".join(f"{name} {value} (limit {REUSE_LIMITS[name]:g})" for name, value in reuse.items())
    print(f"prefix reuse, 2,000 prompt tokens: {costs}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
