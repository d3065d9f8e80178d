"""What a request may be and how many there may be: sizes, rates, lengths, fields, in the words of OpenAI."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hybridserve.gateway.limits.rate_limit import TokenBucket
from support.fake_engine import DONE, SmallEngine, call, chunk, sse
from support.gateway_client import ANSWER, CHAT, STREAM, ask, assert_openai_error, bearer, door


def test_a_bucket_refills_and_settles() -> None:
    now = [0.0]
    bucket = TokenBucket(60, clock=lambda: now[0])
    assert bucket.take(60) == 0
    assert bucket.take(1) == pytest.approx(1.0)
    now[0] = 1.0
    assert bucket.take(1) == 0
    bucket.settle(60, 10)
    assert bucket.take(50) == 0
    assert bucket.take(600) == pytest.approx(60.0), "more than fits waits for a full bucket"
    bucket.settle(0, 120)
    assert bucket.take(1) == pytest.approx(121.0), "what was used beyond the reservation is a debt"


def test_requests_a_minute(keys: dict[str, str]) -> None:
    app = door(access={"keys_file": keys["file"]})
    tiny = bearer(keys["tiny"])
    assert [ask(app, headers=tiny).status for _ in range(3)] == [200, 200, 429]
    refused = ask(app, headers=tiny)
    assert_openai_error(refused, 429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 31
    assert ask(app, headers=bearer(keys["user"])).status == 200, "limits are a key's own"


def test_tokens_a_minute_are_settled_with_what_the_engine_counted() -> None:
    app = door(access={"tokens_per_minute": 400})
    body = {**CHAT, "max_tokens": 300}
    # 300 and the prompt are reserved, 50 used: five fit where reservations alone would let one through.
    assert [ask(app, body).status for _ in range(3)] == [200, 200, 429]
    engine = SmallEngine(STREAM, {**ANSWER, "usage": {"total_tokens": 1000}})
    app = door(engine, access={"tokens_per_minute": 400})
    assert ask(app, {**CHAT, "max_tokens": 10}).status == 200
    refused = ask(app, {**CHAT, "max_tokens": 10})
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) > 90


def test_a_streams_usage_is_asked_for_and_not_shown_to_who_did_not_ask() -> None:
    usage = sse({"choices": [], "usage": {"total_tokens": 390}})
    engine = SmallEngine([sse(chunk("hi")), usage, DONE])
    app = door(engine, access={"tokens_per_minute": 400})
    result = ask(app, {**CHAT, "stream": True, "max_tokens": 10})
    assert engine.bodies[0]["stream_options"] == {"include_usage": True}
    assert b"usage" not in result.body
    assert result.done
    assert ask(app, {**CHAT, "max_tokens": 10}).status == 429, "390 tokens were charged"
    app = door(engine, access={"tokens_per_minute": 400})
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    assert b"usage" in ask(app, asked).body


def test_streams_at_once() -> None:
    engine = SmallEngine([sse(chunk("a")), 0.2, DONE])
    app = door(engine, access={"max_streams": 2, "max_in_flight": 3})

    async def go() -> list[int]:
        results = await asyncio.gather(*[call(app, body={**CHAT, "stream": True}) for _ in range(4)])
        again = await call(app, body={**CHAT, "stream": True})
        return [*sorted(result.status for result in results), again.status]

    assert asyncio.run(go()) == [200, 200, 429, 429, 200]


@pytest.mark.parametrize("stream", [True, False])
def test_who_has_read_the_last_word_may_come_again_at_once(stream: bool) -> None:
    """The app returns a little after its last word; a client in a closed loop is faster."""
    engine = SmallEngine([sse(chunk("a")), DONE, 0.5], ANSWER)
    app = door(engine, access={"max_streams": 1, "max_in_flight": 1})

    async def go() -> list[int]:
        slow = 0.0 if stream else 0.5
        first = asyncio.create_task(call(app, body={**CHAT, "stream": stream}, slow=slow))
        await asyncio.sleep(0.2)
        again = await call(app, body={**CHAT, "stream": stream})
        return [again.status, (await first).status]

    assert asyncio.run(go()) == [200, 200]


def test_max_in_flight_counts_all_keys(keys: dict[str, str]) -> None:
    engine = SmallEngine([sse(chunk("a")), 0.2, DONE])
    app = door(engine, access={"keys_file": keys["file"], "max_in_flight": 1})
    body = {**CHAT, "stream": True}

    async def go() -> list[int]:
        users = [bearer(keys["user"]), bearer(keys["root"])]
        return sorted(r.status for r in await asyncio.gather(*[call(app, body=body, headers=h) for h in users]))

    assert asyncio.run(go()) == [200, 429]


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_bodies_are_bounded_declared_or_not(pieces: int, path: str) -> None:
    engine = SmallEngine(STREAM, ANSWER)
    app = door(engine, access={"max_body_bytes": 1024, "open_routes": ["POST /tokenize"]})
    big = {**CHAT, "user": "x" * 2000}
    assert_openai_error(ask(app, big, path, pieces=pieces), 413, "request_too_large")
    assert_openai_error(ask(app, big, path, pieces=pieces, headers={"content-length": "5"}), 413, "request_too_large")
    assert not engine.paths
    assert ask(app, CHAT, path, pieces=pieces).status == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000])
def test_what_is_no_json_object_is_400(raw: bytes) -> None:
    assert_openai_error(ask(door(), raw=raw), 400, "invalid_json")


def test_output_is_clamped_or_refused() -> None:
    engine = SmallEngine(STREAM, ANSWER)
    app = door(engine, access={"max_output_tokens": 100})
    ask(app, {**CHAT, "max_tokens": 500})
    ask(app, {**CHAT, "max_tokens": 7})
    ask(app, {**CHAT, "max_completion_tokens": 500, "max_tokens": 900})
    ask(app, CHAT)
    ask(app, {"prompt": "x"}, "/v1/completions")
    seen = [{k: v for k, v in body.items() if k.startswith("max")} for body in engine.bodies]
    assert seen == [
        {"max_tokens": 100},
        {"max_tokens": 7},
        {"max_completion_tokens": 100, "max_tokens": 100},
        {"max_completion_tokens": 100},
        {},
    ]
    strict = door(engine, access={"max_output_tokens": 100, "long_output": "refuse"})
    refused = ask(strict, {**CHAT, "max_tokens": 101})
    assert_openai_error(refused, 400, "too_many_output_tokens")
    assert refused.error["param"] == "max_tokens"


def test_prompts_are_counted_by_the_app_only_where_they_might_be_too_long() -> None:
    engine = SmallEngine(STREAM, ANSWER)
    app = door(engine, access={"max_prompt_tokens": 100})
    assert ask(app).status == 200
    assert engine.paths == ["/v1/chat/completions"]
    long = {"messages": [{"role": "user", "content": "x" * 600}]}
    assert_openai_error(ask(app, long), 400, "prompt_too_long")
    middling = {"messages": [{"role": "user", "content": "x" * 150}]}
    assert ask(app, middling).status == 200, "more bytes than the limit, but fewer tokens"
    assert_openai_error(ask(app, {"prompt": list(range(200))}, "/v1/completions"), 400, "prompt_too_long")
    # Another model's prompt: that there is none is the engine's to say, and no outage.
    assert ask(app, {"model": "unknown", "prompt": "word " * 200}, "/v1/completions").status == 200
    assert engine.bodies[-1]["model"] == "unknown"


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"chat_template": "{{ messages }}"}, "field_not_allowed"),
        ({"kv_transfer_params": {"a": 1}}, "field_not_allowed"),
        ({"priority": -5}, "field_not_allowed"),
        ({"n": 100}, "too_many_choices"),
    ],
)
def test_fields_that_reach_into_the_engine_are_refused(extra: dict[str, Any], code: str) -> None:
    engine = SmallEngine(STREAM, ANSWER)
    refused = ask(door(engine), {**CHAT, **extra})
    assert_openai_error(refused, 400, code)
    assert refused.error["param"] in extra
    assert not engine.bodies


def test_each_key_has_a_prefix_cache_of_its_own_where_asked(keys: dict[str, str]) -> None:
    engine = SmallEngine(STREAM, ANSWER)
    app = door(engine, access={"keys_file": keys["file"], "isolate_prefix_cache": True})
    for name in ("user", "user", "root"):
        ask(app, {**CHAT, "cache_salt": "mine"}, headers=bearer(keys[name]))
    first, second, other = (body["cache_salt"] for body in engine.bodies)
    assert first == second != other
    assert keys["user"] not in first
