"""Cost of the gateway alone: processor time for a request and for a chunk, against the same app without it.

Limits are multiples of what Starlette takes in the same run to route a request, read its JSON and stream an answer:
a slow machine is slow in both. The last line is the cost of counting prefix reuse, in time and memory.

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
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from time import process_time, thread_time
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.auth.api_keys import key_line, new_key
from hybridserve.gateway.state import GatewayState
from hybridserve.observability.collectors.prefix_reuse import PrefixReuseCollector
from hybridserve.observability.logging import LOG_DIR, configure
from hybridserve.observability.metrics import EngineMetrics, GatewayMetrics
from hybridserve.planning.cache.reuse import MAX_ENTRIES, CacheGrid, ReuseAccount
from hybridserve.settings import Settings

# Times what Starlette takes for a request.
REQUEST_LIMIT = 3.0
CHUNK_LIMIT = 0.15
FULL_LIMIT_MIB = 64.0


class Speaker:
    """An app that streams `chunks` ready-made events."""

    def __init__(self, chunks: int) -> None:
        word = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        body = {
            **word,
            "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}],
        }
        event = b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
        self.pieces = [event] * chunks + [b"data: [DONE]\n\n"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def starlette_speaker(speaker: Speaker) -> Starlette:
    """What an application on Starlette does without the gateway: route, read the JSON, stream."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in speaker.pieces:
            yield piece

    async def chat(request: Request) -> StreamingResponse:
        await request.json()
        return StreamingResponse(pieces(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


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
    yield "starlette", starlette_speaker
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
    costs = []
    for name, _ in kinds[1:]:
        request = short[name] - short["no middleware"]
        chunk = ((long[name] - long["no middleware"]) - request) / 500
        costs.append({"mode": name, "request_us": round(request, 1), "chunk_us": round(chunk, 2)})
    starlette, *rows = costs
    unit = starlette["request_us"]
    request_us, chunk_us = round(REQUEST_LIMIT * unit, 1), round(CHUNK_LIMIT * unit, 2)
    missed = [row for row in rows if row["request_us"] > request_us or row["chunk_us"] > chunk_us]
    # Accounting of a request of 2,000 prompt tokens: the event loop's part as a chunk, all of it as a request.
    reuse, reuse_limits = accounting(options.repeat), {"loop_us": chunk_us, "request_us": request_us}
    reuse_limits["full_mib"] = FULL_LIMIT_MIB
    failed = bool(missed) or any(reuse[name] > limit for name, limit in reuse_limits.items())
    if options.json:
        limits = {"request_us": request_us, "chunk_us": chunk_us, "prefix_reuse": reuse_limits}
        print(json.dumps({"limits": limits, "starlette": starlette, "rows": rows, "prefix_reuse": reuse}))
        sys.exit(1 if failed else 0)
    print(f"{'mode':<28}{'us / request':>14}{'us / chunk':>12}    (times Starlette's request)")
    for row in costs:
        times = f"{row['request_us'] / unit:.2f} {row['chunk_us'] / unit:.3f}"
        end = "    MISSED" if row in missed else ""
        print(f"{row['mode']:<28}{row['request_us']:>14}{row['chunk_us']:>12}    {times}{end}")
    print(f"{'limit':<28}{request_us:>14}{chunk_us:>12}    {REQUEST_LIMIT:.2f} {CHUNK_LIMIT:.3f}")
    details = ", ".join(f"{name} {value} (limit {reuse_limits[name]:g})" for name, value in reuse.items())
    print(f"prefix reuse, 2,000 prompt tokens: {details}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
