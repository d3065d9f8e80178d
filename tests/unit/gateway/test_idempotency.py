"""Idempotency-Key: a repeated request gets the stored response, and never another one."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.auth.api_keys import Key, key_line, new_key
from hybridserve.gateway.idempotency import MAX_RESPONSE_BYTES, MAX_TOTAL_BYTES, IdempotencyCache
from support.fake_engine import DONE, FakeEngine, Response, chunk, request, sse
from support.gateway_client import ANSWER, CHAT, STREAM, bearer, gateway, send

ALICE, BOB = Key("alice", frozenset({"inference"}), digest=b"a"), Key("bob", frozenset({"inference"}), digest=b"b")


SECRET = new_key()
Keyed = Callable[..., GatewayMiddleware]


@pytest.fixture
def keyed(tmp_path: Path) -> Keyed:
    """The gateway with a key file that has one key."""
    file = tmp_path / "keys.txt"
    file.write_text(key_line("carol", SECRET))

    def build(engine: FakeEngine | None = None, **access: Any) -> GatewayMiddleware:
        return gateway(engine, access={"keys_file": str(file), **access})

    return build


def send_with_key(app: GatewayMiddleware, ident: str = "one", body: Any = CHAT, **options: Any) -> Response:
    return send(app, body, headers={"idempotency-key": ident, **bearer(SECRET)}, **options)


@pytest.mark.parametrize("stream", [True, False])
def test_repeated_request_is_replayed(keyed: Keyed, stream: bool) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app, body = keyed(engine), {**CHAT, "stream": stream}
    first, second = send_with_key(app, body=body), send_with_key(app, body=body)
    assert second.body == first.body
    assert (first.status, second.status) == (200, 200)
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(engine.bodies) == 1
    assert send_with_key(app, "two", body).status == 200
    assert len(engine.bodies) == 2


def test_key_reused_for_other_request_is_422(keyed: Keyed) -> None:
    app = keyed(FakeEngine(STREAM, ANSWER))
    assert send_with_key(app).status == 200
    other = send_with_key(app, body={**CHAT, "max_tokens": 3})
    assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("ident", ["", "x" * 256, "a\tb", "ü"])
def test_invalid_key_is_400(keyed: Keyed, ident: str) -> None:
    rejected = send_with_key(keyed(FakeEngine(STREAM, ANSWER)), ident)
    assert (rejected.status, rejected.error["code"]) == (400, "invalid_idempotency_key")


def test_repeated_request_while_first_runs_is_409(keyed: Keyed) -> None:
    engine = FakeEngine(answer=ANSWER, delay=0.2)
    app = keyed(engine)

    async def both() -> tuple[Response, Response]:
        headers = {"idempotency-key": "one", **bearer(SECRET)}
        first = asyncio.create_task(request(app, body=CHAT, headers=headers))
        await asyncio.sleep(0.05)
        return await request(app, body=CHAT, headers=headers), await first

    second, first = asyncio.run(both())
    assert (second.status, second.error["code"]) == (409, "idempotency_in_progress")
    assert int(second.headers["retry-after"]) >= 1
    assert first.status == 200
    assert len(engine.bodies) == 1


@pytest.mark.parametrize(
    "engine",
    [
        FakeEngine([sse(chunk("hi"))]),
        FakeEngine([sse(chunk("hi")), sse({"error": {"message": "x", "code": 500}}), DONE]),
        FakeEngine([sse(chunk("hi")), RuntimeError("dead")]),
        FakeEngine(status=500, answer={"error": "x"}),
    ],
)
def test_failed_response_is_not_stored(keyed: Keyed, engine: FakeEngine) -> None:
    app, body = keyed(engine), {**CHAT, "stream": engine.status == 200}
    send_with_key(app, body=body)
    again = send_with_key(app, body=body)
    assert "idempotency-replayed" not in again.headers
    assert len(engine.bodies) == 2


def test_aborted_response_is_not_stored(keyed: Keyed) -> None:
    engine = FakeEngine([sse(chunk("hi")), 0.3, sse(chunk("more")), DONE])
    app, body = keyed(engine), {**CHAT, "stream": True}
    send_with_key(app, body=body, disconnect_after=1)
    again = send_with_key(app, body=body)
    assert again.done
    assert "idempotency-replayed" not in again.headers


def stored_before(cache: IdempotencyCache, key: Key, ident: bytes, size: int = 10) -> bool:
    """Open an entry and store a response in it; whether one was stored before."""
    entry = cache.open(key, ident, "chat", b"{}")
    if not entry.finished:
        entry.start = {"type": "http.response.start", "status": 200, "headers": []}
        entry.add(b"x" * size)
        cache.close(entry, keep=True)
        return False
    return True


def test_responses_are_separate_by_api_key_and_expire() -> None:
    now = [0.0]
    cache = IdempotencyCache(60, clock=lambda: now[0])
    assert [stored_before(cache, who, b"k") for who in (ALICE, ALICE, BOB, BOB)] == [False, True, False, True]
    now[0] = 61
    assert not stored_before(cache, ALICE, b"k")


def test_stored_bytes_are_limited() -> None:
    cache = IdempotencyCache(60, clock=lambda: 0.0)
    for number in range(100):
        stored_before(cache, ALICE, str(number).encode(), MAX_RESPONSE_BYTES)
    assert not stored_before(cache, ALICE, b"0", MAX_RESPONSE_BYTES)
    assert stored_before(cache, ALICE, b"99", MAX_RESPONSE_BYTES)
    assert not stored_before(cache, ALICE, b"huge", MAX_RESPONSE_BYTES + 1)
    assert not stored_before(cache, ALICE, b"huge", MAX_RESPONSE_BYTES + 1)


def test_rejected_request_releases_the_key(keyed: Keyed) -> None:
    app = keyed(max_in_flight=1)
    reservation = asyncio.run(app.state.limits.reserve(ALICE, 0))
    assert send_with_key(app).status == 429
    reservation.release()
    assert send_with_key(app).status == 200


def test_requests_without_a_key_share_nothing() -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine)
    for _ in range(2):
        answer = send(app, CHAT, headers={"idempotency-key": "one"})
        assert "idempotency-replayed" not in answer.headers
    assert send(app, {**CHAT, "max_tokens": 3}, headers={"idempotency-key": "one"}).status == 200
    assert len(engine.bodies) == 3


def test_memory_of_the_store_is_what_it_counts() -> None:
    cache = IdempotencyCache(60)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(2000):
        entry = cache.open(ALICE, b"key-%d" % number, "chat", b"{}")
        headers = [(b"content-type", b"application/json"), (b"x-request-id", b"%032d" % number)]
        entry.start = {"type": "http.response.start", "status": 200, "headers": headers}
        for _ in range(4):
            entry.add(bytes(bytearray(100)))
        cache.close(entry, keep=True)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.5 * cache.size < used < 1.05 * cache.size


def test_running_responses_count() -> None:
    cache = IdempotencyCache(60)
    running = [cache.open(ALICE, b"run-%d" % number, "chat", b"{}") for number in range(100)]
    for entry in running:
        entry.add(bytes(MAX_RESPONSE_BYTES))
    assert cache.size <= MAX_TOTAL_BYTES + 100 * 4096
    assert any(entry.body is None for entry in running)
    for entry in running:
        cache.close(entry, keep=True)
    assert cache.size <= MAX_TOTAL_BYTES
    assert sum(entry.finished for entry in running) > 50


def test_look_up_takes_the_same_time_in_a_full_store() -> None:
    cache = IdempotencyCache(600)

    def seconds() -> float:
        start = time.process_time()
        for number in range(300):
            cache.close(cache.open(ALICE, b"look-%d" % number, "chat", b"{}"), keep=False)
        return time.process_time() - start

    few = min(seconds() for _ in range(5))
    for number in range(20_000):
        stored_before(cache, ALICE, b"%d" % number)
    assert min(seconds() for _ in range(5)) < 5 * few
