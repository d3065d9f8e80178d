"""The client of the overhead benchmark: raw sockets, so that it costs little."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass

import psutil

PROMPT = "Tell me about the sea, the ships on it and the people who sail them."
# A request that takes longer counts as failed; nothing here may hang.
LONGEST_S = 120.0
# Selects the variant for a request; other servers ignore the header.
VARIANT_HEADER = "x-bench-variant"


@dataclass(frozen=True, slots=True)
class Target:
    """What is measured: the port, the variant of the gateway, and the process whose processor time counts.

    Attributes:
        base: name of the target that is the same without the gateway, or None.
    """

    name: str
    port: int
    pid: int
    variant: str | None = None
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement of a target: medians over requests in ms, requests a second, processor ms a request.

    `itl_ms` is the time from the first text to the last, for each token after the first: an event may contain several
    tokens when the server is busy, and all of them when a guard's window covers the whole answer.
    """

    ttft_ms: float
    itl_ms: float
    total_ms: float
    rps: float
    cpu_ms: float
    failed: int


@dataclass(frozen=True, slots=True)
class Streamed:
    """Seconds from the request to the first text, the last text and the end."""

    first: float
    last: float
    end: float


async def stream_chat(target: Target, key: str, tokens: int) -> Streamed | str:
    """One streamed chat on a new connection; the last line instead, if that was not ``[DONE]``."""
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
    variant = f"{VARIANT_HEADER}: {target.variant}\r\n" if target.variant is not None else ""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{variant}"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(head.encode() + body)
    first = last = 0.0
    done, last_line = False, b"nothing"
    try:
        while line := await reader.readline():
            last_line = line.strip() or last_line
            if line.startswith(b"data: [DONE]"):
                done = True
            elif has_text(line):
                last = time.perf_counter()
                first = first or last
    finally:
        writer.close()
    end = time.perf_counter()
    return Streamed(first - start, last - start, end - start) if done and first else last_line.decode(errors="replace")


def has_text(line: bytes) -> bool:
    """Whether this line of a stream contains text or reasoning."""
    if not line.startswith(b"data: {"):
        return False
    for part in (b'"content":""', b'"content":null', b'"reasoning":""', b'"reasoning":null'):
        line = line.replace(part, b"")
    return b'"content":' in line or b'"reasoning":' in line


async def drive(target: Target, key: str, concurrency: int, requests: int, tokens: int) -> tuple[list[Streamed], float]:
    """Send `requests` in a closed loop of `concurrency` clients; returns the results and the seconds for all.

    Failures are printed to standard error.
    """
    results: list[Streamed] = []
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            try:
                result = await asyncio.wait_for(stream_chat(target, key, tokens), LONGEST_S)
            except (OSError, TimeoutError) as error:
                result = type(error).__name__
            if isinstance(result, str):
                print(f"{target.name}: a request failed: {result[:300]}", file=sys.stderr)
            else:
                results.append(result)

    start = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(concurrency)])
    return results, time.perf_counter() - start


def measure(target: Target, key: str, concurrency: int, requests: int, tokens: int) -> Figures:
    """Measure one target once.

    Raises:
        SystemExit: not one request succeeded.
    """
    before = processor_seconds(target.pid)
    good, seconds = asyncio.run(drive(target, key, concurrency, requests, tokens))
    cost = processor_seconds(target.pid) - before
    if not good:
        raise SystemExit(f"{target.name}: no request succeeded")
    return Figures(
        ttft_ms=statistics.median(r.first for r in good) * 1000,
        itl_ms=statistics.median(r.last - r.first for r in good) / (tokens - 1) * 1000,
        total_ms=statistics.median(r.end for r in good) * 1000,
        rps=len(good) / seconds,
        cpu_ms=cost / requests * 1000,
        failed=requests - len(good),
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
