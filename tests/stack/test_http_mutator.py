"""Broken HTTP against the running service, through HAProxy: bytes, headers and bodies. No 5xx, no crash, no slot kept.

A few hundred in `make test`; `make test-fuzz` sends a hundred times as many.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from support.fuzz_bodies import BODIES, HEADERS
from support.mutate import WRONG, mutate_text, mutate_tree
from support.stack_service import Service, start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(7200)]

MANY = 75 * int(os.environ.get("FUZZ_EXAMPLES", "4"))
PATIENCE_S = 1.0
SEED = int(os.environ.get("FUZZ_SEED", "11"))
# What two servers in a row may read differently.
SMUGGLERS = (
    "transfer-encoding: chunked", "transfer-encoding: \x0bchunked", "transfer-encoding: identity, chunked",
    "content-length: 0", "content-length: +5", "content-length: 5, 6", "content-length: 99999999999999999999",
    "expect: 100-continue", "connection: close, content-length", "upgrade: h2c", " folded: yes", "x\x00y: z", "host: b",
)  # fmt: skip


@pytest.fixture(scope="module")
def door() -> Iterator[Service]:
    limits = ["access.max_output_tokens=8", "access.max_prompt_tokens=64"]
    service = start(["--data-path", "haproxy", *[word for one in limits for word in ("--set", one)]])
    yield service
    assert service.stop() == 0


def request(rng: random.Random) -> bytes:
    """A broken request, as it goes over the wire."""
    path = rng.choice(sorted(BODIES))
    body = json.dumps(mutate_tree(BODIES[path], rng)).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        body = mutate_text(json.dumps(BODIES[path]), rng)
    lines = [f"POST {path} HTTP/1.1", "host: a", "content-type: application/json", f"content-length: {len(body)}",
             "connection: close"]  # fmt: skip
    if rng.random() < 0.3:
        lines.append(f"{rng.choice(HEADERS)}: {str(rng.choice(WRONG))[:5000]}")
    if rng.random() < 0.3:
        lines.insert(rng.randrange(1, len(lines) + 1), rng.choice(SMUGGLERS))
    head = "\r\n".join(lines) + "\r\n\r\n"
    if rng.random() < 0.3:
        return mutate_text(head, rng) + body
    return head.encode("utf-8", "surrogatepass") + body


def statuses(port: int, data: bytes) -> list[int]:
    """Of every answer on one connection; none where it is closed without a word, or where more is waited for."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                received += piece
        except (ConnectionError, TimeoutError):
            pass
    assert b"Traceback" not in received
    return [int(part[2:5]) for part in received.split(b"HTTP/1.")[1:] if part[2:5].isdigit()]


def test_no_broken_request_makes_a_5xx_or_keeps_a_slot(door: Service) -> None:
    port = int(door.url.rsplit(":", 1)[1])
    seen: Counter[int] = Counter()
    for number in range(MANY):
        data = request(random.Random(f"{SEED}/wire/{number}"))
        answers = statuses(port, data)
        seen.update(answers)
        # 501: HAProxy says of a transfer coding that it does not know it.
        assert all(status < 500 or status == 501 for status in answers), f"number {number}: {answers}\n{data[:3000]!r}"
    print(dict(seen))
    assert {200, 400} <= set(seen)
    deadline = time.monotonic() + 60
    while door.metric("vllm:num_requests_running") or door.metric("vllm:num_requests_waiting"):
        assert time.monotonic() < deadline, "a sequence is still there"
        time.sleep(0.2)
    chat = {"model": "demo", "messages": [{"role": "user", "content": "What is this?"}], "max_tokens": 4}
    assert httpx.post(f"{door.url}/v1/chat/completions", json=chat, timeout=60).status_code == 200
