"""Malformed HTTP against the running service through HAProxy: no 5xx, no crash, no slot kept.

A few hundred in `make test`; `make test-fuzz` sends a hundred times as many.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from support.fuzz_bodies import BODIES, HEADERS
from support.mutate import WRONG, mutate_text, mutate_tree
from support.prometheus_server import wait_until
from support.stack_service import Service, start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(7200)]

MANY = 75 * int(os.environ.get("FUZZ_EXAMPLES", "4"))
PATIENCE_S = 1.0
SEED = int(os.environ.get("FUZZ_SEED", "11"))
# Headers that two servers in a row may parse differently.
SMUGGLERS = (
    "transfer-encoding: chunked", "transfer-encoding: \x0bchunked", "transfer-encoding: identity, chunked",
    "content-length: 0", "content-length: +5", "content-length: 5, 6", "content-length: 99999999999999999999",
    "expect: 100-continue", "connection: close, content-length", "upgrade: h2c", " folded: yes", "x\x00y: z", "host: b",
)  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[Service]:
    limits = ["access.max_output_tokens=8", "access.max_prompt_tokens=64"]
    service = start(["--data-path", "haproxy", *[word for limit in limits for word in ("--set", limit)]])
    yield service
    assert service.stop() == 0


def request(rng: random.Random) -> bytes:
    """A malformed request as bytes."""
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
    """Status of every response on one connection; empty when it is closed or times out without a response."""
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


def test_malformed_http_causes_no_5xx_and_keeps_no_slot(served: Service) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    seen: Counter[int] = Counter()
    for number in range(MANY):
        data = request(random.Random(f"{SEED}/wire/{number}"))
        responses = statuses(port, data)
        seen.update(responses)
        # 501: HAProxy does not know the transfer coding.
        assert all(status < 500 or status == 501 for status in responses), f"{number}: {responses}\n{data[:3000]!r}"
    print(dict(seen))
    assert {200, 400} <= set(seen)
    wait_until(lambda: served.metric("vllm:num_requests_running") + served.metric("vllm:num_requests_waiting") == 0, 60)
    chat = {"model": "demo", "messages": [{"role": "user", "content": "What is this?"}], "max_tokens": 4}
    assert httpx.post(f"{served.url}/v1/chat/completions", json=chat, timeout=60).status_code == 200
