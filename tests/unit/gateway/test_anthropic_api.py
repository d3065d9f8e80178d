"""Anthropic's Messages API through the gateway: guarded, limited, and with errors in Anthropic's own form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import pytest

from support.fake_engine import FakeEngine, Response
from support.gateway_client import WordGuard, bearer, gateway, send
from support.metrics import samples

PATH = "/v1/messages"
BODY: dict[str, Any] = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
USAGE = {"input_tokens": 7, "output_tokens": 5}


def answer(*blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    labels = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    return {**labels, "content": list(blocks), "usage": USAGE, **fields}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def block(index: int, kind: str, field: str, *pieces: str, **start: Any) -> list[bytes]:
    """The events of one block of content, as vLLM sends them."""
    delta = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}[field]
    return [
        event("content_block_start", index=index, content_block={"type": kind, **start}),
        *(event("content_block_delta", index=index, delta={"type": delta, field: piece}) for piece in pieces),
        event("content_block_stop", index=index),
    ]


def stream(*blocks: list[bytes], **end: Any) -> list[Any]:
    stop = {"stop_reason": "end_turn", **end}
    return [
        event("message_start", message=answer(stop_reason=None)),
        *(part for events in blocks for part in events),
        event("message_delta", delta=stop, usage=USAGE),
        event("message_stop"),
    ]


@asynccontextmanager
async def client(app: Any, key: str = "x") -> AsyncIterator[anthropic.AsyncAnthropic]:
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport) as http:
        yield anthropic.AsyncAnthropic(api_key=key, base_url="http://t", http_client=http, max_retries=0)


def ask(app: Any, key: str = "x", **fields: Any) -> Any:
    """The message that the official client returns."""

    async def run() -> Any:
        async with client(app, key) as messages:
            return await messages.messages.create(**{**BODY, **fields})

    return asyncio.run(run())


def read(app: Any, **fields: Any) -> Any:
    """The final message of a stream, as the official client assembles it."""

    async def run() -> Any:
        async with client(app) as messages, messages.messages.stream(**{**BODY, **fields}) as events:
            return await events.get_final_message()

    return asyncio.run(run())


@pytest.mark.parametrize("guard", [None, WordGuard()])
def test_client_gets_whole_and_streamed_messages(guard: WordGuard | None) -> None:
    blocks = ({"type": "thinking", "thinking": "so", "signature": "0a1b"}, {"type": "text", "text": "fine"})
    message = ask(gateway(FakeEngine(answer=answer(*blocks)), guard))
    assert [part.type for part in message.content] == ["thinking", "text"]
    assert message.usage.output_tokens == 5
    events = stream(
        block(0, "thinking", "thinking", "so ", "then", thinking=""),
        block(1, "text", "text", "fi", "ne", text=""),
        block(2, "tool_use", "partial_json", '{"city": ', '"Rome"}', id="toolu_1", name="weather", input={}),
    )
    message = read(gateway(FakeEngine(events), guard))
    assert [getattr(part, "thinking", None) or getattr(part, "text", "") for part in message.content[:2]] == [
        "so then",
        "fine",
    ]
    assert (message.content[2].name, message.content[2].input) == ("weather", {"city": "Rome"})


def test_client_counts_tokens() -> None:
    async def run() -> Any:
        async with client(gateway(FakeEngine(answer={"input_tokens": 12}), WordGuard())) as messages:
            return await messages.messages.count_tokens(model="m", messages=BODY["messages"])

    assert asyncio.run(run()).input_tokens == 12


@pytest.mark.parametrize(
    "field", [{"chat_template": "{{ x }}"}, {"chat_template_kwargs": {"chat_template": "{{ x }}"}}]
)
def test_counting_tokens_takes_no_template(field: dict[str, Any]) -> None:
    engine = FakeEngine(answer={"input_tokens": 12})
    result = send(gateway(engine), {**BODY, **field}, "/v1/messages/count_tokens")
    assert (result.status, engine.bodies) == (400, [])


PROMPTS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "BANNED"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "so BANNED"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "BAN"}, {"type": "text", "text": "NED"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "BANNED"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a",
                                                "content": [{"type": "text", "text": "BANNED"}]}]}]},
    {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "BANNED", "signature": "a"}]}]},
    {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f",
                                                     "input": {"BANNED": 1}}]}]},
    {"system": "BANNED"},
    {"system": [{"type": "text", "text": "BAN"}, {"type": "text", "text": "NED"}]},
    {"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"id": {"description": "BANNED"}}}}]},
    {"output_config": {"format": {"type": "json_schema", "schema": {"title": "BANNED"}}}},
]  # fmt: skip


@pytest.mark.parametrize("fields", PROMPTS)
def test_every_part_of_the_prompt_is_judged(fields: dict[str, Any]) -> None:
    engine = FakeEngine(answer=answer())
    with pytest.raises(anthropic.BadRequestError) as blocked:
        ask(gateway(engine, WordGuard()), **fields)
    assert not engine.bodies
    assert blocked.value.body["type"] == "error"
    error = blocked.value.body["error"]
    assert (error["type"], error["code"], error["guard"]["stage"]) == (
        "invalid_request_error",
        "guard_blocked",
        "input",
    )


@pytest.mark.parametrize(
    "content", [[{"type": "image", "source": {"type": "base64", "data": "aGk="}}], [{"type": "document"}], [5]]
)
def test_content_that_is_not_text_is_rejected(content: list[Any]) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": content}]}
    result = send(gateway(FakeEngine(), WordGuard()), body, PATH)
    assert (result.status, result.error["code"]) == (400, "guard_unreadable")


BLOCKED = [
    stream(block(0, "text", "text", "BAN", "NED", text="")),
    stream(block(0, "thinking", "thinking", "BANNED", thinking="")),
    stream(block(0, "text", "text", "BAN", text=""), block(1, "text", "text", "NED", text="")),
    stream(block(0, "tool_use", "partial_json", '{"q": "BAN', 'NED"}', id="a", name="f", input={})),
    stream(block(0, "tool_use", "partial_json", "{}", id="a", name="BANNED", input={})),
    stream(block(0, "text", "text", "BAN", text=""), stop_reason="stop_sequence", stop_sequence="NED"),
]


@pytest.mark.parametrize("events", BLOCKED)
def test_streamed_text_is_judged(events: list[Any]) -> None:
    result = send(gateway(FakeEngine(events), WordGuard()), {**BODY, "stream": True}, PATH)
    last = _last_event(result)
    assert (last["type"], last["error"]["code"]) == ("error", "guard_blocked")
    assert b"message_stop" not in result.body
    assert b"NED" not in result.body
    with pytest.raises(anthropic.APIStatusError, match="blocked by the safety guard"):
        read(gateway(FakeEngine(events), WordGuard()))


@pytest.mark.parametrize(
    "message",
    [
        answer({"type": "text", "text": "BANNED"}),
        answer({"type": "thinking", "thinking": "BANNED", "signature": "ab"}),
        answer({"type": "tool_use", "id": "a", "name": "f", "input": {"BANNED": "x"}}),
        answer({"type": "text", "text": "BAN"}, stop_reason="stop_sequence", stop_sequence="NED"),
    ],
)
def test_whole_message_is_judged(message: dict[str, Any]) -> None:
    with pytest.raises(anthropic.BadRequestError, match="response was blocked"):
        ask(gateway(FakeEngine(answer=message), WordGuard()))


def test_unknown_fields_do_not_leave() -> None:
    message = answer({"type": "text", "text": "fine", "note": "BANNED"}, kv_transfer_params={"a": "BANNED"})
    result = send(gateway(FakeEngine(answer=message), WordGuard()), BODY, PATH)
    assert result.json() == answer({"type": "text", "text": "fine"})


def test_errors_have_anthropics_form(keys: dict[str, str]) -> None:
    app = gateway(FakeEngine(answer=answer()), access={"keys_file": keys["file"], "requests_per_minute": 1})
    with pytest.raises(anthropic.AuthenticationError) as unknown:
        ask(app, "hs-wrong")
    assert unknown.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.PermissionDeniedError):
        ask(app, keys["scraper"])
    assert ask(app, keys["user"]).id == "msg_1"
    with pytest.raises(anthropic.RateLimitError) as limited:
        ask(app, keys["user"])
    assert limited.value.body["error"]["type"] == "rate_limit_error"
    engine = FakeEngine(status=500, text_error='Traceback (most recent call last)\n File "/secret"')
    with pytest.raises(anthropic.InternalServerError) as failed:
        ask(gateway(engine))
    assert failed.value.body == {
        "type": "error",
        "error": {"message": "The engine failed on this request.", "type": "api_error", "param": None, "code": "error"},
    }
    interrupted = send(gateway(FakeEngine(stream(block(0, "text", "text", "a"))[:-1])), {**BODY, "stream": True}, PATH)
    assert _last_event(interrupted)["error"]["code"] == "stream_interrupted"
    broken = [
        event("message_start", message=answer()),
        event("error", error={"type": "internal_error", "message": "x"}),
    ]
    for guard in (None, WordGuard()):
        result = send(gateway(FakeEngine([*broken]), guard), {**BODY, "stream": True}, PATH)
        assert (_last_event(result)["type"], _last_event(result)["error"]["type"]) == ("error", "api_error")


def test_tokens_are_counted_from_both_kinds_of_response(keys: dict[str, str]) -> None:
    app = gateway(
        FakeEngine(stream(block(0, "text", "text", "a")), answer()),
        access={"keys_file": keys["file"], "tokens_per_minute": 100_000},
    )
    for whole in (True, False):
        send(app, {**BODY, "stream": not whole}, PATH, headers=bearer(keys["user"]))
    (tokens,) = samples(app.state.metrics.rate_limited_tokens).values()
    assert tokens == 2 * 12


@pytest.mark.parametrize(
    ("thinking", "sent"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, {"enable_thinking": True}),
        ({"type": "disabled"}, {"enable_thinking": False}),
        ({"type": "adaptive"}, None),
        (None, None),
    ],
)
def test_thinking_switches_the_template(thinking: Any, sent: Any) -> None:
    engine = FakeEngine(answer=answer())
    send(gateway(engine), {**BODY, "thinking": thinking}, PATH)
    assert engine.bodies[0].get("chat_template_kwargs") == sent
    assert "thinking" not in engine.bodies[0]
    engine = FakeEngine(answer=answer())
    send(gateway(engine, reasoning={"switch": "none"}), {**BODY, "thinking": thinking}, PATH)
    assert "chat_template_kwargs" not in engine.bodies[0], "agents send it to every model"


def test_thinking_switches_a_system_message() -> None:
    for system in ("Be brief. /think", [{"type": "text", "text": "Be brief. /think"}]):
        engine = FakeEngine(answer=answer())
        body = {**BODY, "system": system, "thinking": {"type": "disabled"}}
        send(gateway(engine, reasoning={"switch": "system"}), body, PATH)
        text = json.dumps(engine.bodies[0]["system"])
        assert "/no_think" in text
        assert "/think" not in text.replace("/no_think", "")


def test_invalid_thinking_and_roles_are_400() -> None:
    for fields, code in (
        ({"thinking": {"type": "maybe"}}, "invalid_reasoning"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unknown_role"),
        ({"chat_template_kwargs": {"documents": []}}, "field_not_allowed"),
    ):
        result = send(gateway(), {**BODY, **fields}, PATH)
        assert (result.status, result.error["code"]) == (400, code)


def _last_event(result: Response) -> dict[str, Any]:
    lines = [line[6:] for line in result.body.decode().split("\n") if line.startswith("data: ")]
    last: dict[str, Any] = json.loads(lines[-1])
    return last
