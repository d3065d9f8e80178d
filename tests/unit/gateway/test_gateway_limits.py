"""Limits: rates, concurrency, body and prompt size, output tokens, and fields that are not allowed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from hybridserve.gateway.limits.streamed_tokens import StreamedTokens
from support.fake_engine import DONE, FakeEngine, chunk, request, sse
from support.gateway_client import ANSWER, CHAT, STREAM, assert_openai_error, bearer, gateway, send


def test_requests_per_minute(keys: dict[str, str]) -> None:
    app = gateway(access={"keys_file": keys["file"]})
    tiny = bearer(keys["tiny"])
    assert [send(app, headers=tiny).status for _ in range(3)] == [200, 200, 429]
    rejected = send(app, headers=tiny)
    assert_openai_error(rejected, 429, "rate_limit_exceeded")
    assert 1 <= int(rejected.headers["retry-after"]) <= 31
    assert send(app, headers=bearer(keys["user"])).status == 200, "each key has its own limits"


def test_tokens_per_minute_are_settled_with_reported_usage() -> None:
    app = gateway(access={"tokens_per_minute": 400})
    body = {**CHAT, "max_tokens": 300}
    # 300 and the prompt are reserved and 50 are used: two requests fit where reservations alone allow one.
    assert [send(app, body).status for _ in range(3)] == [200, 200, 429]
    engine = FakeEngine(STREAM, {**ANSWER, "usage": {"total_tokens": 1000}})
    app = gateway(engine, access={"tokens_per_minute": 400})
    assert send(app, {**CHAT, "max_tokens": 10}).status == 200
    rejected = send(app, {**CHAT, "max_tokens": 10})
    assert rejected.status == 429
    assert int(rejected.headers["retry-after"]) > 90


def test_every_answer_of_a_request_is_reserved(keys: dict[str, str]) -> None:
    """`tiny` has 400 tokens per minute."""
    app, options = (
        gateway(access={"keys_file": keys["file"], "anonymous_scopes": []}),
        {"headers": bearer(keys["tiny"])},
    )
    prompts = {"prompt": ["a", "b", "c", "d"], "max_tokens": 90}
    assert send(app, prompts, "/v1/completions", **options).status == 200  # reserves all of it
    assert send(app, {"prompt": "a", "max_tokens": 390}, "/v1/completions", **options).status == 429


@pytest.mark.parametrize("value", [None, False, "no", 0, "false"])
def test_stream_usage_is_requested_in_spite_of_the_client(value: Any) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine, access={"tokens_per_minute": 1000})
    send(app, {**CHAT, "stream": True, "stream_options": {"include_usage": value}})
    assert engine.bodies[0]["stream_options"] == {"include_usage": True}


def test_stream_usage_is_requested_and_hidden() -> None:
    usage = sse({"choices": [], "usage": {"total_tokens": 390}})
    engine = FakeEngine([sse(chunk("hi")), usage, DONE])
    app = gateway(engine, access={"tokens_per_minute": 400})
    result = send(app, {**CHAT, "stream": True, "max_tokens": 10})
    assert engine.bodies[0]["stream_options"] == {"include_usage": True}
    assert b"usage" not in result.body
    assert result.done
    assert send(app, {**CHAT, "max_tokens": 10}).status == 429, "390 tokens were charged"
    app = gateway(engine, access={"tokens_per_minute": 400})
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    assert b"usage" in send(app, asked).body


def test_client_that_hangs_up_is_charged_what_was_streamed() -> None:
    """The engine stops on request, and reports no usage."""
    engine = FakeEngine([*[sse(chunk("word ")) for _ in range(2900)], 0.2, DONE])
    app = gateway(engine, access={"tokens_per_minute": 2000})
    body = {**CHAT, "stream": True}
    statuses = [send(app, body, disconnect_after=2800).status for _ in range(4)]
    assert statuses == [200, 429, 429, 429]
    assert int(send(app, body).headers["retry-after"]) > 20, "the use beyond the limit is a debt"


@pytest.mark.parametrize(
    ("data", "tokens"),
    [
        (sse(chunk("word ")) * 3, 3),
        (sse(chunk("word " * 40)), 50),
        (sse(chunk('a"b\\\\' * 4)), 8),
        (sse({"choices": [{"delta": {}, "logprobs": {"content": [{"token": "x" * 99, "top_logprobs": []}]}}]}), 1),
        (sse({"type": "response.output_text.delta", "delta": "hi"}), 1),
        (sse({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}}), 1),
        (sse({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "word" * 7}}), 7),
        (b"", 0),
    ],
)
def test_streamed_tokens_are_estimated(data: bytes, tokens: int) -> None:
    streamed = StreamedTokens()
    streamed.feed(data)
    assert streamed.estimate == tokens


def test_max_streams() -> None:
    engine = FakeEngine([sse(chunk("a")), 0.2, DONE])
    app = gateway(engine, access={"max_streams": 2, "max_in_flight": 3})

    async def run() -> list[int]:
        results = await asyncio.gather(*[request(app, body={**CHAT, "stream": True}) for _ in range(4)])
        again = await request(app, body={**CHAT, "stream": True})
        return [*sorted(result.status for result in results), again.status]

    assert asyncio.run(run()) == [200, 200, 429, 429, 200]


@pytest.mark.parametrize("stream", [True, False])
def test_slot_is_free_when_client_has_read_the_end(stream: bool) -> None:
    """The app returns shortly after its last event; a client in a closed loop sends its next request earlier."""
    engine = FakeEngine([sse(chunk("a")), DONE, 0.5], ANSWER)
    app = gateway(engine, access={"max_streams": 1, "max_in_flight": 1})

    async def run() -> list[int]:
        slow = 0.0 if stream else 0.5
        first = asyncio.create_task(request(app, body={**CHAT, "stream": stream}, slow=slow))
        await asyncio.sleep(0.2)
        again = await request(app, body={**CHAT, "stream": stream})
        return [again.status, (await first).status]

    assert asyncio.run(run()) == [200, 200]


def test_max_in_flight_counts_all_keys(keys: dict[str, str]) -> None:
    engine = FakeEngine([sse(chunk("a")), 0.2, DONE])
    app = gateway(engine, access={"keys_file": keys["file"], "max_in_flight": 1})
    body = {**CHAT, "stream": True}

    async def run() -> list[int]:
        users = [bearer(keys["user"]), bearer(keys["root"])]
        return sorted(r.status for r in await asyncio.gather(*[request(app, body=body, headers=h) for h in users]))

    assert asyncio.run(run()) == [200, 429]


def test_body_that_does_not_arrive_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridserve.gateway.requests.body._BODY_TIMEOUT_S", 0.02)
    replies: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0.005)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send_back(message: Any) -> None:
        replies.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    asyncio.run(gateway()(scope, receive, send_back))
    assert replies == [408, None]


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_large_body_is_413(pieces: int, path: str) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine, access={"max_body_bytes": 1024, "open_routes": ["POST /tokenize"]})
    big = {**CHAT, "user": "x" * 2000}
    assert_openai_error(send(app, big, path, pieces=pieces), 413, "request_too_large")
    assert_openai_error(send(app, big, path, pieces=pieces, headers={"content-length": "5"}), 413, "request_too_large")
    assert not engine.paths
    assert send(app, CHAT, path, pieces=pieces).status == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000])
def test_body_that_is_not_a_json_object_is_400(raw: bytes) -> None:
    assert_openai_error(send(gateway(), raw=raw), 400, "invalid_json")


def test_output_limit_is_clamped_or_rejected() -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine, access={"max_output_tokens": 100})
    send(app, {**CHAT, "max_tokens": 500})
    send(app, {**CHAT, "max_tokens": 7})
    send(app, {**CHAT, "max_completion_tokens": 500, "max_tokens": 900})
    send(app, CHAT)
    send(app, {"prompt": "x"}, "/v1/completions")
    seen = [{k: v for k, v in body.items() if k.startswith("max")} for body in engine.bodies]
    assert seen == [
        {"max_tokens": 100},
        {"max_tokens": 7},
        {"max_completion_tokens": 100, "max_tokens": 100},
        {"max_completion_tokens": 100},
        {},
    ]
    strict = gateway(engine, access={"max_output_tokens": 100, "long_output": "refuse"})
    rejected = send(strict, {**CHAT, "max_tokens": 101})
    assert_openai_error(rejected, 400, "too_many_output_tokens")
    assert rejected.error["param"] == "max_tokens"


@pytest.mark.parametrize("value", ["100", "1e2", " 100 ", "1_00", 100.0, True, "2.5", "x", [], {}, "1.0"])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
def test_numbers_in_other_types_are_bounded_as_the_engine_reads_them(name: str, value: Any) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine, access={"max_output_tokens": 10, "max_choices": 1})
    result = send(app, {**CHAT, name: value})
    try:
        read = getattr(ChatCompletionRequest(messages=CHAT["messages"], **{name: value}), name)
    except ValidationError:
        assert_openai_error(result, 400, "invalid_value")
        assert result.error["param"] == name
        return
    if name == "n" and read > 1:
        assert_openai_error(result, 400, "too_many_choices")
    else:
        assert engine.bodies[0][name] == min(read, 10)
        assert type(engine.bodies[0][name]) is int


@pytest.mark.parametrize(("value", "streams"), [("true", True), ("on", True), (1, True), ("0", False), ("maybe", None)])
def test_stream_in_other_types_is_what_the_engine_reads(value: Any, streams: bool | None) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    result = send(gateway(engine, access={"tokens_per_minute": 400}), {**CHAT, "stream": value})
    if streams is None:
        assert_openai_error(result, 400, "invalid_value")
    else:
        assert engine.bodies[0]["stream"] is streams
        assert ("stream_options" in engine.bodies[0]) is streams


def test_prompt_is_counted_within_the_slots() -> None:
    """Counting takes the engine's tokenizer, so a client without a free slot must not cause it."""
    engine = FakeEngine([sse(chunk("a")), 0.2, DONE])
    app = gateway(engine, access={"max_in_flight": 1, "max_prompt_tokens": 100, "tokens_per_minute": 1000})
    long = {"messages": [{"role": "user", "content": "x" * 600}]}

    async def run() -> list[int]:
        first = asyncio.create_task(request(app, body={**CHAT, "stream": True}))
        await asyncio.sleep(0.1)
        return [(await request(app, body=long)).status, (await first).status]

    assert asyncio.run(run()) == [429, 200]
    assert "/tokenize" not in engine.paths
    refused = [send(app, long).error["code"] for _ in range(9)]
    assert set(refused) == {"prompt_too_long"}, "a refused prompt costs no tokens"


def test_prompt_tokens_are_counted_only_for_long_bodies() -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine, access={"max_prompt_tokens": 100})
    assert send(app).status == 200
    assert engine.paths == ["/v1/chat/completions"]
    long = {"messages": [{"role": "user", "content": "x" * 600}]}
    assert_openai_error(send(app, long), 400, "prompt_too_long")
    middling = {"messages": [{"role": "user", "content": "x" * 150}]}
    assert send(app, middling).status == 200, "more bytes than the limit, but fewer tokens"
    hidden = {**CHAT, "documents": [{"title": "notes", "text": "x" * 600}]}
    assert_openai_error(send(app, hidden), 400, "prompt_too_long")
    assert_openai_error(send(app, {"prompt": list(range(200))}, "/v1/completions"), 400, "prompt_too_long")
    # An unknown model is reported by the engine, and is no outage.
    assert send(app, {"model": "unknown", "prompt": "word " * 200}, "/v1/completions").status == 200
    assert engine.bodies[-1]["model"] == "unknown"


@pytest.mark.parametrize(
    ("item", "status"),
    [
        ({"type": "message", "role": "user", "content": "hi"}, 200),
        ({"role": "user", "content": "hi"}, 200),
        ({"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"}, 200),
        ({"type": "function_call_output", "call_id": "1", "output": "x"}, 200),
        ({"type": "reasoning", "id": "r", "summary": []}, 200),
        ({"type": "tool_search_call", "arguments": None}, 400),
        ({"type": None}, 400),
        ({"content": "hi"}, 400),
        ({"type": ["message"], "role": "user"}, 400),
    ],
)
def test_input_items_that_the_engine_cannot_use_are_refused(item: dict[str, Any], status: int) -> None:
    app = gateway(FakeEngine(STREAM, {"object": "response", "output": []}))
    result = send(app, {"input": [item]}, "/v1/responses")
    assert result.status == status
    if status == 400:
        assert_openai_error(result, 400, "unsupported_input_item")


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"chat_template": "{{ messages }}"}, "field_not_allowed"),
        ({"kv_transfer_params": {"a": 1}}, "field_not_allowed"),
        ({"priority": -5}, "field_not_allowed"),
        ({"n": 100}, "too_many_choices"),
        ({"prompt": ["a"] * 5}, "too_many_choices"),
        ({"prompt": [[1]] * 5}, "too_many_choices"),
        ({"prompt": ["a"] * 3, "n": "2"}, "too_many_choices"),
        ({"stop": ["a"] * 65}, "too_many_values"),
        ({"bad_words": ["a"] * 65}, "too_many_values"),
        ({"stop_token_ids": [1] * 65}, "too_many_values"),
        ({"logit_bias": dict.fromkeys(map(str, range(1025)), 1)}, "too_many_values"),
        ({"logprob_token_ids": [1] * 1025}, "too_many_values"),
        ({"repetition_detection": {"max_pattern_size": 65, "min_count": 2}}, "too_many_values"),
        ({"repetition_detection": {"max_pattern_size": "9999", "min_count": 2}}, "too_many_values"),
    ],
    ids=str,
)
def test_disallowed_fields_are_rejected(extra: dict[str, Any], code: str) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    path = "/v1/completions" if "prompt" in extra else "/v1/chat/completions"
    rejected = send(gateway(engine), {**({} if "prompt" in extra else CHAT), **extra}, path)
    assert_openai_error(rejected, 400, code)
    assert rejected.error["param"] in extra
    assert not engine.bodies


def test_isolated_prefix_cache_per_key(keys: dict[str, str]) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine, access={"keys_file": keys["file"], "isolate_prefix_cache": True})
    for name in ("user", "user", "root"):
        send(app, {**CHAT, "cache_salt": "mine"}, headers=bearer(keys[name]))
    first, second, other = (body["cache_salt"] for body in engine.bodies)
    assert first == second != other
    assert keys["user"] not in first
