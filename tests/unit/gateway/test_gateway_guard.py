"""Guard checks of prompts and responses: no unchecked text leaves, and a failed check is not a pass."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytest

from support.fake_engine import DONE, FakeEngine, Response, chunk, sse
from support.gateway_client import STREAM_CHAT, WordGuard, assert_incomplete, gateway, get, send


def guarded(pieces: Any = (DONE,), body: Any = STREAM_CHAT, path: str = "/v1/chat/completions") -> Response:
    """The response to one request, with a guard that blocks BANNED in front of an engine that streams `pieces`."""
    return send(gateway(FakeEngine(list(pieces)), WordGuard()), body, path)


# --- responses


def test_allowed_stream_is_unchanged() -> None:
    pieces = [sse(chunk()), *[sse(chunk(f"word{i} ")) for i in range(200)], DONE]
    engine = FakeEngine(pieces)
    result = send(gateway(engine, WordGuard()), STREAM_CHAT)
    assert result.body == b"".join(pieces)
    assert (engine.finished, engine.aborted) == (1, 0)


@pytest.mark.parametrize("channel", ["content", "reasoning", "refusal"])
@pytest.mark.parametrize("cut", range(1, 6))
def test_banned_phrase_across_chunks_is_blocked(channel: str, cut: int) -> None:
    texts = ["x" * 37, "BANNED"[:cut], "BANNED"[cut:], "y" * 100, "tail"]
    engine = FakeEngine([sse(chunk()), *[sse(chunk(text, channel=channel)) for text in texts], 0.5, DONE])
    result = send(gateway(engine, WordGuard()), STREAM_CHAT)
    assert_incomplete(result, "guard_blocked")
    assert result.payloads[-1]["error"]["guard"] == {"stage": "output", "categories": ["Word"]}
    assert not set("BAND") & set(result.text(channel))
    assert engine.aborted == 1, "the engine stops generating"


def test_tool_call_arguments_are_checked() -> None:
    def tool(text: str) -> dict[str, Any]:
        delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        return {"choices": [{"index": 0, "delta": delta}]}

    result = guarded([sse(tool('{"q":"BAN')), sse(tool('NED"}')), DONE])
    assert_incomplete(result, "guard_blocked")
    assert b"BAN" not in result.chunks[0]


def test_chunks_may_split_characters_and_events() -> None:
    stream = b"".join([sse(chunk()), *[sse(chunk(text)) for text in ("grüße ", "😀😀", "BAN", "NED", " more")], DONE])
    for size in (1, 2, 3, 7, len(stream)):
        pieces: list[Any] = [stream[i : i + size] for i in range(0, len(stream), size)]
        result = guarded(pieces)
        assert_incomplete(result, "guard_blocked")
        assert "B" not in result.text()
    harmless = stream.replace(b"NED", b"ANA")
    for size in (1, 5):
        pieces = [harmless[i : i + size] for i in range(0, len(harmless), size)]
        for guard in (WordGuard(), None):
            result = send(gateway(FakeEngine(pieces), guard), STREAM_CHAT)
            assert result.text() == "grüße 😀😀BANANA more"
            assert result.done


def test_many_events_in_one_chunk_and_one_huge_delta() -> None:
    blob = b"".join([sse(chunk("a" * 5)) for _ in range(50)] + [DONE])
    result = guarded([blob])
    assert (result.text(), result.done) == ("a" * 250, True)
    guard = WordGuard()
    result = send(gateway(FakeEngine([sse(chunk("x" * 100_000 + "BANNED")), DONE]), guard), STREAM_CHAT)
    assert_incomplete(result, "guard_blocked")
    assert result.text() == ""
    assert max(len(messages[-1]["content"]) for _, messages in guard.checked) <= 40


def test_comment_is_replaced_by_keep_alive() -> None:
    result = guarded([sse(chunk("abc")), b": BANNED\n\n", 0.1, sse(chunk("def")), DONE])
    assert b"BANNED" not in result.body
    assert result.chunks[0] == b": keep-alive\n\n", "it is sent while text is held"
    assert result.text() == "abcdef"


@pytest.mark.parametrize(
    "data",
    [b"data: {not json}\n\n", b"data: [1]\n\n", b'data: "BANNED"\n\n', b"data: \xff\xfe\n\n", b"data: BANNED\n\n"],
)
def test_unreadable_event_ends_the_stream(data: bytes) -> None:
    result = guarded([sse(chunk("abc")), data, DONE])
    assert_incomplete(result, "stream_unreadable")
    assert b"BANNED" not in result.body


def test_choices_have_separate_channels() -> None:
    pieces = [sse(chunk("BAN", index=0)), sse(chunk("NED", index=1)), sse(chunk("ANA", index=0)), DONE]
    result = guarded(pieces, {**STREAM_CHAT, "n": 2})
    assert result.done, "a phrase split across two choices is not blocked"
    pieces = [sse(chunk("BAN", index=0)), sse(chunk("x", index=1)), sse(chunk("NED", index=0)), DONE]
    assert_incomplete(guarded(pieces, {**STREAM_CHAT, "n": 2}), "guard_blocked")


def test_unstreamed_response_is_checked() -> None:
    def answer(**message: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", **message}}]}

    body = {**STREAM_CHAT, "stream": False}
    good = answer(content="fine", reasoning="well")
    assert send(gateway(FakeEngine(answer=good), WordGuard()), body).json() == good
    for message in (
        {"content": "so BANNED"},
        {"content": "fine", "reasoning": "BANNED"},
        {
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "BANNED"}}],
        },
        {"content": "fine", "refusal": ["BANNED"]},
    ):
        result = send(gateway(FakeEngine(answer=answer(**message)), WordGuard()), body)
        assert (result.status, result.error["code"]) == (400, "guard_blocked")
        assert b"BANNED" not in result.body


def test_completions_and_responses_apis_are_checked() -> None:
    pieces = [sse({"choices": [{"index": 0, "text": text}]}) for text in ("BAN", "NED")] + [DONE]
    assert_incomplete(guarded(pieces, {"prompt": "a", "stream": True}, "/v1/completions"), "guard_blocked")

    def event(kind: str, **more: Any) -> bytes:
        return f"event: {kind}\n".encode() + sse({"type": kind, **more})

    def response(*texts: str) -> list[Any]:
        deltas = [event("response.output_text.delta", item_id="m", output_index=0, delta=text) for text in texts]
        item = {"type": "message", "content": [{"type": "output_text", "text": "".join(texts)}]}
        end = event("response.completed", response={"output": [item], "usage": {"total_tokens": 3}})
        return [event("response.created", response={"output": [], "instructions": "x"}), *deltas, end]

    body = {"input": "a", "stream": True}
    assert_incomplete(guarded(response("BAN", "NED"), body, "/v1/responses"), "guard_blocked")
    for guard in (WordGuard(), None):
        result = send(gateway(FakeEngine(response("BAN", "ANA")), guard), body, "/v1/responses")
        assert result.payloads[-1]["type"] == "response.completed"
    result = send(gateway(FakeEngine(response("a")[:-1]), None), body, "/v1/responses")
    assert_incomplete(result, "stream_interrupted")
    stored = {"input": "a", "previous_response_id": "resp_1"}
    assert guarded(body=stored, path="/v1/responses").error["code"] == "guard_unreadable"


@pytest.mark.parametrize(
    "extra",
    [
        {"return_token_ids": True},
        {"logprobs": True},
        {"logprobs": 0},
        {"logprobs": "1"},
        {"top_logprobs": 1},
        {"prompt_logprobs": 0},
        {"return_prompt_text": True},
        {"enable_response_messages": True},
        {"include": ["message.output_text.logprobs"]},
        {"truncate_prompt_tokens": 20},
        {"truncation": "auto"},
    ],
)
def test_output_that_the_guard_cannot_read_is_rejected(extra: dict[str, Any]) -> None:
    assert guarded(body={**STREAM_CHAT, **extra}).error["code"] == "field_not_allowed"
    assert send(gateway(FakeEngine([DONE])), {**STREAM_CHAT, **extra}).status == 200


# --- prompts


@pytest.mark.parametrize("policy", ["before", "overlap"])
@pytest.mark.parametrize("stream", [True, False])
def test_blocked_prompt_is_400(policy: str, stream: bool) -> None:
    engine = FakeEngine([sse(chunk("answer")), DONE], {"choices": []})
    app = gateway(engine, WordGuard(delay=0.05), guard={"input": policy, "window_tokens": 10, "overlap_tokens": 3})
    body = {"messages": [{"role": "user", "content": "BANNED"}], "stream": stream}
    result = send(app, body)
    assert (result.status, result.error["code"]) == (400, "guard_blocked")
    assert b"answer" not in result.body
    assert len(engine.bodies) == (0 if policy == "before" else 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", ["message", "param", "code"])
def test_errors_that_quote_the_answer_are_judged(place: str, stream: bool) -> None:
    """An error of the engine may quote what the model wrote, such as a tool call that does not parse."""
    error = {"message": "does not parse", "param": "tools[0]", "code": 400, place: "input_value='BANNED'"}
    engine = FakeEngine([sse({"error": error})] if stream else [], {"error": error}, status=200 if stream else 400)
    app = gateway(engine, WordGuard())
    result = send(app, {**STREAM_CHAT, "stream": stream})
    assert b"BANNED" not in result.body
    shown = (result.payloads[0] if stream else result.json())["error"]
    # In a stream a code that is no number means 500, whose message never leaves.
    replaced = place == "message" or (stream and place == "code")
    assert shown["message"] == ("The engine failed on this request." if replaced else "does not parse")
    assert shown["param"] in (None, "tools[0]")


def test_overlap_mode_aborts_engine_on_blocked_prompt() -> None:
    engine = FakeEngine([5.0, sse(chunk("answer")), DONE], delay=5.0, answer={})
    for stream in (True, False):
        app = gateway(engine, WordGuard(delay=0.05), guard={"input": "overlap"})
        start = monotonic()
        result = send(app, {"messages": [{"role": "user", "content": "BANNED"}], "stream": stream})
        assert (result.status, result.error["code"]) == (400, "guard_blocked")
        assert monotonic() - start < 2, "the response does not wait for the engine"
    assert engine.aborted == 2


def test_overlap_mode_runs_guard_and_engine_concurrently() -> None:
    engine = FakeEngine([sse(chunk("answer")), DONE])

    class SlowGuard(WordGuard):
        async def check(self, messages: Any, stage: Any) -> Any:
            verdict = await super().check(messages, stage)
            assert engine.bodies, "the engine has the request before the verdict"
            return verdict

    result = send(gateway(engine, SlowGuard(delay=0.05), guard={"input": "overlap", "output": False}), STREAM_CHAT)
    assert (result.text(), result.done) == ("answer", True)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": "BANNED"},
        {"role": "user", "content": [{"type": "text", "text": "so BANNED"}]},
        {"role": "tool", "tool_call_id": "1", "content": "BANNED"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "BANNED"}}]},
        {"role": "assistant", "content": "", "reasoning": "BANNED"},
        {"role": "developer", "content": "BANNED"},
    ],
)
def test_every_message_is_checked(message: dict[str, Any]) -> None:
    body = {"messages": [message, {"role": "user", "content": "go on"}], "stream": True}
    assert guarded([DONE], body).error["code"] == "guard_blocked"


def test_tool_descriptions_are_checked() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "BANNED", "parameters": {}}}
    assert guarded(body={**STREAM_CHAT, "tools": [tool]}).error["code"] == "guard_blocked"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
        ("/v1/completions", {"prompt": [1, 2, 3]}),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}),
        ("/v1/completions", {"prompt": "a", "prompt_embeds": "AAAA"}),
    ],
)
def test_prompt_that_is_not_text_is_rejected(path: str, body: dict[str, Any]) -> None:
    result = guarded(body=body, path=path)
    assert (result.status, result.error["code"]) == (400, "guard_unreadable")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("policy", ["off", "before", "overlap"])
def test_failing_guard_rejects_all_requests(policy: str, stream: bool) -> None:
    engine = FakeEngine([sse(chunk("answer")), DONE], {"choices": [{"index": 0, "message": {"content": "answer"}}]})
    app = gateway(engine, WordGuard(fail=True), guard={"input": policy})
    result = send(app, {**STREAM_CHAT, "stream": stream})
    assert b"answer" not in result.body
    error = result.payloads[-1]["error"] if result.status == 200 else result.error
    assert error["code"] == "guard_unavailable"
    if not (stream and policy == "off"):
        assert result.status == 503
        assert result.headers["retry-after"]
    ready = get(app, "/ready")
    assert ready.status == 503
    assert "guard" in ready.json()["reasons"][0]
