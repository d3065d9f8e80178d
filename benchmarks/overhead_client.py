"""The client of the overhead benchmark: raw sockets, so that it costs little beside what it measures."""

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
# Which door a service with several takes for this request; others do not know the header.
DOOR_HEADER = "x-bench-door"


@dataclass(frozen=True, slots=True)
class Target:
    """What is compared: where requests go, through which door, and whose processor time they cost.

    Attributes:
        base: name of the target that is the same without the control layer, or None.
    """

    name: str
    port: int
    pid: int
    door: str | None = None
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """One visit of one target: medians over requests in ms, requests a second, processor ms a request.

    `itl_ms` is the time from the first text to the last, for each token after the first: an event may carry several
    tokens where the server is busy, and all of them where a guard's window holds the whole answer.
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


async def one(target: Target, key: str, tokens: int) -> Streamed | str:
    """One streamed chat on a connection of its own; what came last, if that was not ``[DONE]``."""
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
    door = f"{DOOR_HEADER}: {target.door}\r\n" if target.door is not None else ""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{door}"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(head.encode() + body)
    first = last = 0.0
    done, told = False, b"nothing"
    try:
        while line := await reader.readline():
            told = line.strip() or told
            if line.startswith(b"data: [DONE]"):
                done = True
            elif has_text(line):
                last = time.perf_counter()
                first = first or last
    finally:
        writer.close()
    end = time.perf_counter()
    return Streamed(first - start, last - start, end - start) if done and first else told.decode(errors="replace")


def has_text(line: bytes) -> bool:
    """Whether this line of a stream carries text or reasoning."""
    if not line.startswith(b"data: {"):
        return False
    for part in (b'"content":""', b'"content":null', b'"reasoning":""', b'"reasoning":null'):
        line = line.replace(part, b"")
    return b'"content":' in line or b'"reasoning":' in line


async def drive(target: Target, key: str, concurrency: int, requests: int, tokens: int) -> tuple[list[Streamed], float]:
    """A closed loop: so many clients share these requests. Good results, and seconds for all.

    What failed is told on standard error.
    """
    results: list[Streamed] = []
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            try:
                result = await asyncio.wait_for(one(target, key, tokens), LONGEST_S)
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
    """One visit of one target.

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
