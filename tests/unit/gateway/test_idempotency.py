"""A client that asks again with its Idempotency-Key: the same answer, once computed, and never a wrong one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.limits.idempotency import MAX_RESPONSE_BYTES, IdempotencyCache
from hybridserve.settings import Settings
from support.fake_engine import DONE, Result, SmallEngine, call, chunk, sse

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}], "usage": {"total_tokens": 50}}
STREAM: list[Any] = [sse(chunk()), sse(chunk("hi")), DONE]
ALICE, BOB = Key("alice", frozenset({"inference"}), digest=b"a"), Key("bob", frozenset({"inference"}), digest=b"b")


def door(engine: SmallEngine, **sections: Any) -> GatewayMiddleware:
    return GatewayMiddleware(engine, Settings.model_validate(sections))


def ask(app: GatewayMiddleware, ident: str = "one", body: Any = CHAT, **more: Any) -> Result:
    return asyncio.run(call(app, body=body, headers={"idempotency-key": ident}, **more))


@pytest.mark.parametrize("stream", [True, False])
def test_the_second_time_the_engine_is_not_asked(stream: bool) -> None:
    engine = SmallEngine(STREAM, ANSWER)
    app, body = door(engine), {**CHAT, "stream": stream}
    first, second = ask(app, body=body), ask(app, body=body)
    assert second.body == first.body
    assert (first.status, second.status) == (200, 200)
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(engine.bodies) == 1
    assert ask(app, "two", body).status == 200
    assert len(engine.bodies) == 2


def test_one_key_is_one_request() -> None:
    app = door(SmallEngine(STREAM, ANSWER))
    assert ask(app).status == 200
    other = ask(app, body={**CHAT, "max_tokens": 3})
    assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("ident", ["", "x" * 256, "a\tb", "ü"])
def test_keys_that_are_none(ident: str) -> None:
    refused = ask(door(SmallEngine(STREAM, ANSWER)), ident)
    assert (refused.status, refused.error["code"]) == (400, "invalid_idempotency_key")


def test_while_it_runs_the_second_is_told_to_wait() -> None:
    engine = SmallEngine(answer=ANSWER, whole_delay=0.2)
    app = door(engine)

    async def both() -> tuple[Result, Result]:
        headers = {"idempotency-key": "one"}
        first = asyncio.create_task(call(app, body=CHAT, headers=headers))
        await asyncio.sleep(0.05)
        return await call(app, body=CHAT, headers=headers), await first

    second, first = asyncio.run(both())
    assert (second.status, second.error["code"]) == (409, "idempotency_in_progress")
    assert int(second.headers["retry-after"]) >= 1
    assert first.status == 200
    assert len(engine.bodies) == 1


@pytest.mark.parametrize(
    "engine",
    [
        SmallEngine([sse(chunk("hi"))]),
        SmallEngine([sse(chunk("hi")), sse({"error": {"message": "x", "code": 500}}), DONE]),
        SmallEngine([sse(chunk("hi")), RuntimeError("dead")]),
        SmallEngine(status=500, answer={"error": "x"}),
    ],
)
def test_what_failed_is_not_kept(engine: SmallEngine) -> None:
    app, body = door(engine), {**CHAT, "stream": engine.status == 200}
    ask(app, body=body)
    again = ask(app, body=body)
    assert "idempotency-replayed" not in again.headers
    assert len(engine.bodies) == 2


def test_a_client_that_left_may_ask_again() -> None:
    engine = SmallEngine([sse(chunk("hi")), 0.3, sse(chunk("more")), DONE])
    app, body = door(engine), {**CHAT, "stream": True}
    ask(app, body=body, hang_up_after=1)
    again = ask(app, body=body)
    assert again.done
    assert "idempotency-replayed" not in again.headers


def kept(answers: IdempotencyCache, key: Key, ident: bytes, size: int = 10) -> bool:
    """Ask; whether there was an answer already."""
    with answers.open(key, ident, "chat", b"{}") as entry:
        stored, entry.finished = entry.finished, True
        entry.size = entry.size if stored else size
        return stored


def test_callers_do_not_see_each_others_answers_and_time_ends() -> None:
    now = [0.0]
    answers = IdempotencyCache(60, clock=lambda: now[0])
    assert [kept(answers, who, b"k") for who in (ALICE, ALICE, BOB, BOB)] == [False, True, False, True]
    now[0] = 61
    assert not kept(answers, ALICE, b"k")


def test_memory_is_bounded() -> None:
    answers = IdempotencyCache(60, clock=lambda: 0.0)
    for number in range(100):
        kept(answers, ALICE, str(number).encode(), MAX_RESPONSE_BYTES)
    assert not kept(answers, ALICE, b"0", MAX_RESPONSE_BYTES)
    assert kept(answers, ALICE, b"99", MAX_RESPONSE_BYTES)
    assert not kept(answers, ALICE, b"huge", MAX_RESPONSE_BYTES + 1)
    assert not kept(answers, ALICE, b"huge", MAX_RESPONSE_BYTES + 1)


def test_a_refusal_gives_the_key_back() -> None:
    answers = IdempotencyCache(60)
    with pytest.raises(APIError), answers.open(ALICE, b"k", "chat", b"{}"):
        raise APIError(429, "rate_limit_exceeded", "later")
    assert not kept(answers, ALICE, b"k")
