"""Ten times what the service holds, and clients that read nothing: bounded, refused in words, and over at once."""

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
from ledger import Load

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(900)]

SLOTS = 8
ADMITTED = 2 * SLOTS
FLOOD = 10 * SLOTS
FLOOD_S = 150.0


@pytest.fixture(scope="module")
def small(start_module_service: Callable[..., Any]) -> Any:
    """Eight slots, as many requests waiting, and two seconds of patience with readers."""
    sets = [f"engine.max_num_seqs={SLOTS}", f"access.max_in_flight={ADMITTED}", "access.stalled_reader_s=2"]
    return start_module_service("--data-path", "haproxy", *[word for value in sets for word in ("--set", value)])


@pytest.fixture
def direct(start_module_service: Callable[..., Any]) -> Any:
    """Without HAProxy: the kernel's buffers of its connections take 20 MB for a client that reads none."""
    flags = ["--data-path", "single", "--set", f"engine.max_num_seqs={SLOTS}", "--set", "access.stalled_reader_s=2"]
    return start_module_service(*flags)


def memory(service: Any) -> int:
    total = 0
    for process in service.family():
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def latencies(load: Load, since: float) -> list[float]:
    return [e.ended - e.sent for e in load.ledger.entries if e.outcome == "finished" and e.sent >= since]


async def test_ten_times_the_capacity(small: Any) -> None:
    async with Load(small.url, ADMITTED, tokens=60) as calm:
        await calm.finished(3 * ADMITTED, 120)
    usual = statistics.median(latencies(calm, 0))
    before = await asyncio.to_thread(memory, small)
    async with Load(small.url, FLOOD, tokens=60) as flood:
        began = time.monotonic()
        await asyncio.sleep(FLOOD_S)
        after = await asyncio.to_thread(memory, small)
    over = time.monotonic()
    async with Load(small.url, 1, tokens=8) as alone:
        await alone.finished(1, 60)
    recovered = time.monotonic() - over
    counts = flood.ledger.counts()
    reasons = {entry.why for entry in flood.ledger.failed()}
    held = statistics.median(latencies(flood, began + 5))
    summary = {
        "outcomes": dict(counts),
        "median_s": {"at capacity": round(usual, 2), "admitted under flood": round(held, 2)},
        "recovered_s": round(recovered, 2),
        "memory": round(after / before, 3),
    }
    print(json.dumps(summary))
    assert set(counts) <= {"finished", "told"}, counts
    assert reasons == {"429 rate_limit_exceeded"}, reasons
    assert counts["finished"] >= ADMITTED
    assert held < 4 * usual, summary
    assert recovered < 10, summary
    assert after < 1.1 * before, summary


async def test_refusals_say_when_to_come_back(small: Any) -> None:
    async with Load(small.url, FLOOD, tokens=60), httpx.AsyncClient(base_url=small.url, timeout=30) as client:
        await asyncio.sleep(3)
        body = {"model": "demo", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
        answers = await asyncio.gather(*[client.post("/v1/chat/completions", json=body) for _ in range(10)])
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_readers_that_read_nothing_hold_no_slot(direct: Any) -> None:
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
        chat = {"model": "demo", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
        deadline = time.monotonic() + 60
        while True:
            lines = httpx.get(f"{direct.url}/metrics", timeout=30).text.splitlines()
            running = sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith("vllm:num_requests_running{"))
            if running == 0 and time.monotonic() > deadline - 55:
                break
            assert time.monotonic() < deadline, f"{running} slots are still held"
            time.sleep(0.5)
        assert httpx.post(f"{direct.url}/v1/chat/completions", json=chat, timeout=30).status_code == 200
        cut = sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith("hybridserve_streams_aborted_total{"))
        assert cut >= 1, "the door has let go of them, not the end of their answers"
    finally:
        for stuck in sockets:
            stuck.close()


def test_headers_that_never_end_hold_nothing(small: Any) -> None:
    """Slowloris: a hundred connections that send a header now and then; others are served meanwhile."""
    port = int(small.url.rsplit(":", 1)[1])
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    try:
        for number in range(5):
            for one in slow:
                one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" if number == 0 else b"x-a: b\r\n")
            body = {"model": "demo", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
            began = time.monotonic()
            assert httpx.post(f"{small.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
            assert time.monotonic() - began < 5
            time.sleep(0.5)
    finally:
        for one in slow:
            one.close()
