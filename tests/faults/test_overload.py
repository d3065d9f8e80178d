"""Ten times the capacity, clients that do not read, and headers that never end."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest
from load import LoadGenerator

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(900)]

SLOTS = 8
ADMITTED = 2 * SLOTS
FLOOD = 10 * SLOTS
FLOOD_S = 150.0
CHAT = {"model": "demo", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def small(start_module_service: Callable[..., Any]) -> Any:
    """Eight slots, as many waiting requests, two seconds until a stalled reader is cut off."""
    return start_module_service(
        "haproxy", engine__max_num_seqs=SLOTS, access__max_in_flight=ADMITTED, access__stalled_reader_s=2
    )


@pytest.fixture
def direct(start_module_service: Callable[..., Any]) -> Any:
    """Without HAProxy, whose buffers take 20 MB for a client that does not read."""
    return start_module_service("single", engine__max_num_seqs=SLOTS, access__stalled_reader_s=2)


def memory(service: Any) -> int:
    total = 0
    for process in service.family():
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def latencies(load: LoadGenerator, since: float) -> list[float]:
    return [e.ended - e.sent for e in load.log.entries if e.outcome == "finished" and e.sent >= since]


async def test_flood_of_ten_times_the_capacity_is_bounded(small: Any) -> None:
    async with LoadGenerator(small.url, ADMITTED, tokens=60) as normal:
        await normal.wait_for_finished(3 * ADMITTED, 120)
    usual = statistics.median(latencies(normal, 0))
    before = await asyncio.to_thread(memory, small)
    async with LoadGenerator(small.url, FLOOD, tokens=60) as flood:
        began = time.monotonic()
        await asyncio.sleep(FLOOD_S)
        after = await asyncio.to_thread(memory, small)
        async with httpx.AsyncClient(base_url=small.url, timeout=30) as client:
            responses = await asyncio.gather(*[client.post("/v1/chat/completions", json=CHAT) for _ in range(10)])
    over = time.monotonic()
    async with LoadGenerator(small.url, 1, tokens=8) as alone:
        await alone.wait_for_finished(1, 60)
    recovered = time.monotonic() - over
    counts = flood.log.counts()
    reasons = {entry.reason for entry in flood.log.failed()}
    held = statistics.median(latencies(flood, began + 5))
    summary = {
        "outcomes": dict(counts),
        "median_s": {"at capacity": round(usual, 2), "admitted under flood": round(held, 2)},
        "recovered_s": round(recovered, 2),
        "memory": round(after / before, 3),
    }
    print(json.dumps(summary))
    assert set(counts) <= {"finished", "error_returned"}, counts
    assert reasons == {"429 rate_limit_exceeded"}, reasons
    assert counts["finished"] >= ADMITTED
    assert held < 4 * usual, summary
    assert recovered < 10, summary
    rejected = [response for response in responses if response.status_code == 429]
    assert rejected
    assert all(int(response.headers["retry-after"]) >= 1 for response in rejected)
    assert after < 1.1 * before, summary


def test_stalled_readers_are_cut_off(direct: Any) -> None:
    port = int(direct.url.rsplit(":", 1)[1])
    body = {"model": "demo", "max_tokens": 3000, "min_tokens": 3000, "ignore_eos": True, "stream": True,
            "logprobs": True, "top_logprobs": 20, "n": 4, "messages": [{"role": "user", "content": "Hi"}]}  # fmt: skip
    text = json.dumps(body)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(text)}\r\n"
    sockets = []
    for _ in range(SLOTS // 4):
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        stuck.connect(("127.0.0.1", port))
        stuck.sendall(f"{head}content-type: application/json\r\n\r\n{text}".encode())
        sockets.append(stuck)
    try:
        deadline = time.monotonic() + 60
        while True:
            lines = httpx.get(f"{direct.url}/metrics", timeout=30).text.splitlines()
            running = sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith("vllm:num_requests_running{"))
            if running == 0 and time.monotonic() > deadline - 55:
                break
            assert time.monotonic() < deadline, f"{running} slots are still taken"
            time.sleep(0.5)
        assert httpx.post(f"{direct.url}/v1/chat/completions", json=CHAT, timeout=30).status_code == 200
        cut = sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith("hybridserve_streams_aborted_total{"))
        assert cut >= 1, "the streams ended by themselves, not because they were cut off"
    finally:
        for stuck in sockets:
            stuck.close()


def test_slow_headers_do_not_block_other_clients(small: Any) -> None:
    """Slowloris: a hundred connections that send a header now and then."""
    port = int(small.url.rsplit(":", 1)[1])
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    try:
        for number in range(5):
            for connection in slow:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" if number == 0 else b"x-a: b\r\n")
            began = time.monotonic()
            assert httpx.post(f"{small.url}/v1/chat/completions", json=CHAT, timeout=30).status_code == 200
            assert time.monotonic() - began < 5
            time.sleep(0.5)
    finally:
        for connection in slow:
            connection.close()
