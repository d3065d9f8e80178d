"""Idempotency-Key: a repeated request gets the stored response, and never another one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.idempotency import MAX_RESPONSE_BYTES, IdempotencyCache
from support.fake_engine import DONE, FakeEngine, Response, chunk, request, sse
from support.gateway_client import ANSWER, CHAT, STREAM, gateway, send

ALICE, BOB = Key("alice", frozenset({"inference"}), digest=b"a"), Key("bob", frozenset({"inference"}), digest=b"b")


def send_with_key(app: GatewayMiddleware, ident: str = "one", body: Any = CHAT, **options: Any) -> Response:
    return send(app, body, headers={"idempotency-key": ident}, **options)


@pytest.mark.parametrize("stream", [True, False])
def test_repeated_request_is_replayed(stream: bool) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app, body = gateway(engine), {**CHAT, "stream": stream}
    first, second = send_with_key(app, body=body), send_with_key(app, body=body)
    assert second.body == first.body
    assert (first.status, second.status) == (200, 200)
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(engine.bodies) == 1
    assert send_with_key(app, "two", body).status == 200
    assert len(engine.bodies) == 2


def test_key_reused_for_other_request_is_422() -> None:
    app = gateway(FakeEngine(STREAM, ANSWER))
    assert send_with_key(app).status == 200
    other = send_with_key(app, body={**CHAT, "max_tokens": 3})
    assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("ident", ["", "x" * 256, "a\tb", "ü"])
def test_invalid_key_is_400(ident: str) -> None:
    rejected = send_with_key(gateway(FakeEngine(STREAM, ANSWER)), ident)
    assert (rejected.status, rejected.error["code"]) == (400, "invalid_idempotency_key")


def test_repeated_request_while_first_runs_is_409() -> None:
    engine = FakeEngine(answer=ANSWER, delay=0.2)
    app = gateway(engine)

    async def both() -> tuple[Response, Response]:
        headers = {"idempotency-key": "one"}
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
def test_failed_response_is_not_stored(engine: FakeEngine) -> None:
    app, body = gateway(engine), {**CHAT, "stream": engine.status == 200}
    send_with_key(app, body=body)
    again = send_with_key(app, body=body)
    assert "idempotency-replayed" not in again.headers
    assert len(engine.bodies) == 2


def test_aborted_response_is_not_stored() -> None:
    engine = FakeEngine([sse(chunk("hi")), 0.3, sse(chunk("more")), DONE])
    app, body = gateway(engine), {**CHAT, "stream": True}
    send_with_key(app, body=body, disconnect_after=1)
    again = send_with_key(app, body=body)
    assert again.done
    assert "idempotency-replayed" not in again.headers


def stored_before(cache: IdempotencyCache, key: Key, ident: bytes, size: int = 10) -> bool:
    """Open an entry and store a response in it; whether one was stored before."""
    entry = cache.open(key, ident, "chat", b"{}")
    if not entry.finished:
        entry.size = size
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


def test_rejected_request_releases_the_key() -> None:
    app = gateway(access={"max_in_flight": 1})
    reservation = app.state.limits.reserve(ALICE, 0)
    assert send_with_key(app).status == 429
    reservation.release()
    assert send_with_key(app).status == 200
