"""The guard on prompts and on answers, whole or streamed: nothing unread leaves, and no error is a pass."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest

from support.fake_engine import DONE, SmallEngine, call, chunk, sse
from support.guarded_gateway import CHAT, Word, ask, assert_cut, door

# --- the guard on answers


def test_a_clean_stream_arrives_whole_and_unchanged() -> None:
    pieces = [sse(chunk()), *[sse(chunk(f"word{i} ")) for i in range(200)], DONE]
    engine = SmallEngine(pieces)
    result = ask(door(engine, Word()))
    assert result.body == b"".join(pieces)
    assert (engine.finished, engine.aborted) == (1, 0)


@pytest.mark.parametrize("channel", ["content", "reasoning", "refusal"])
@pytest.mark.parametrize("cut", range(1, 6))
def test_a_banned_phrase_across_chunks_never_leaves(channel: str, cut: int) -> None:
    texts = ["x" * 37, "BANNED"[:cut], "BANNED"[cut:], "y" * 100, "tail"]
    engine = SmallEngine([sse(chunk()), *[sse(chunk(text, channel=channel)) for text in texts], 0.5, DONE])
    result = ask(door(engine, Word()))
    assert_cut(result, "guard_blocked")
    assert result.payloads[-1]["error"]["guard"] == {"stage": "output", "categories": ["Word"]}
    assert not set("BAND") & set(result.text(channel))
    assert engine.aborted == 1, "the engine must not go on for nobody"


def test_tool_call_arguments_are_read() -> None:
    def tool(text: str) -> dict[str, Any]:
        delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        return {"choices": [{"index": 0, "delta": delta}]}

    engine = SmallEngine([sse(tool('{"q":"BAN')), sse(tool('NED"}')), DONE])
    result = ask(door(engine, Word()))
    assert_cut(result, "guard_blocked")
    assert b"BAN" not in result.chunks[0]


def test_bytes_of_a_character_and_of_an_event_may_be_cut_anywhere() -> None:
    stream = b"".join([sse(chunk()), *[sse(chunk(text)) for text in ("grüße ", "😀😀", "BAN", "NED", " more")], DONE])
    for size in (1, 2, 3, 7, len(stream)):
        pieces: list[Any] = [stream[i : i + size] for i in range(0, len(stream), size)]
        result = ask(door(SmallEngine(pieces), Word()))
        assert_cut(result, "guard_blocked")
        assert "B" not in result.text()
    harmless = stream.replace(b"NED", b"ANA")
    for size in (1, 5):
        pieces = [harmless[i : i + size] for i in range(0, len(harmless), size)]
        for guard in (Word(), None):
            result = ask(door(SmallEngine(pieces), guard))
            assert result.text() == "grüße 😀😀BANANA more"
            assert result.done


def test_many_events_in_one_chunk_and_one_huge_delta() -> None:
    blob = b"".join([sse(chunk("a" * 5)) for _ in range(50)] + [DONE])
    result = ask(door(SmallEngine([blob]), Word()))
    assert (result.text(), result.done) == ("a" * 250, True)
    guard = Word()
    result = ask(door(SmallEngine([sse(chunk("x" * 100_000 + "BANNED")), DONE]), guard))
    assert_cut(result, "guard_blocked")
    assert result.text() == ""
    assert max(len(messages[-1]["content"]) for _, messages in guard.asked) <= 40


def test_comments_pass_at_once_but_not_their_words() -> None:
    engine = SmallEngine([sse(chunk("abc")), b": BANNED\n\n", 0.1, sse(chunk("def")), DONE])
    result = ask(door(engine, Word()))
    assert b"BANNED" not in result.body
    assert result.chunks[0] == b": keep-alive\n\n", "it comes while text is held"
    assert result.text() == "abcdef"


@pytest.mark.parametrize(
    "rubbish",
    [b"data: {not json}\n\n", b"data: [1]\n\n", b'data: "BANNED"\n\n', b"data: \xff\xfe\n\n", b"data: BANNED\n\n"],
)
def test_what_a_guard_cannot_read_does_not_pass(rubbish: bytes) -> None:
    result = ask(door(SmallEngine([sse(chunk("abc")), rubbish, DONE]), Word()))
    assert_cut(result, "stream_unreadable")
    assert b"BANNED" not in result.body


def test_several_answers_have_lanes_of_their_own() -> None:
    pieces = [sse(chunk("BAN", index=0)), sse(chunk("NED", index=1)), sse(chunk("ANA", index=0)), DONE]
    result = ask(door(SmallEngine(pieces), Word()), {**CHAT, "n": 2})
    assert result.done, "a phrase across two answers is none"
    pieces = [sse(chunk("BAN", index=0)), sse(chunk("x", index=1)), sse(chunk("NED", index=0)), DONE]
    assert_cut(ask(door(SmallEngine(pieces), Word()), {**CHAT, "n": 2}), "guard_blocked")


def test_answers_in_one_piece_are_read_too() -> None:
    def answer(**message: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", **message}}]}

    body = {**CHAT, "stream": False}
    good = answer(content="fine", reasoning="well")
    assert ask(door(SmallEngine(answer=good), Word()), body).json() == good
    for message in (
        {"content": "so BANNED"},
        {"content": "fine", "reasoning": "BANNED"},
        {
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "BANNED"}}],
        },
        {"content": "fine", "something_new": ["BANNED"]},
    ):
        result = ask(door(SmallEngine(answer=answer(**message)), Word()), body)
        assert (result.status, result.error["code"]) == (400, "guard_blocked")
        assert b"BANNED" not in result.body


def test_completions_and_responses_are_read_as_well() -> None:
    pieces = [sse({"choices": [{"index": 0, "text": text}]}) for text in ("BAN", "NED")] + [DONE]
    result = asyncio.run(call(door(SmallEngine(pieces), Word()), "/v1/completions", {"prompt": "a", "stream": True}))
    assert_cut(result, "guard_blocked")

    def event(kind: str, **more: Any) -> bytes:
        return f"event: {kind}\n".encode() + sse({"type": kind, **more})

    def response(*texts: str) -> list[Any]:
        deltas = [event("response.output_text.delta", item_id="m", output_index=0, delta=text) for text in texts]
        item = {"type": "message", "content": [{"type": "output_text", "text": "".join(texts)}]}
        end = event("response.completed", response={"output": [item], "usage": {"total_tokens": 3}})
        return [event("response.created", response={"output": [], "instructions": "x"}), *deltas, end]

    body = {"input": "a", "stream": True}
    result = asyncio.run(call(door(SmallEngine(response("BAN", "NED")), Word()), "/v1/responses", body))
    assert_cut(result, "guard_blocked")
    for guard in (Word(), None):
        result = asyncio.run(call(door(SmallEngine(response("BAN", "ANA")), guard), "/v1/responses", body))
        assert result.payloads[-1]["type"] == "response.completed"
    result = asyncio.run(call(door(SmallEngine(response("a")[:-1]), None), "/v1/responses", body))
    assert_cut(result, "stream_interrupted")
    stored = {"input": "a", "previous_response_id": "resp_1"}
    refused = asyncio.run(call(door(SmallEngine(), Word()), "/v1/responses", stored))
    assert refused.error["code"] == "guard_unreadable"


@pytest.mark.parametrize("extra", [{"return_token_ids": True}, {"include_reasoning": False, "logprobs": True}])
def test_other_forms_of_the_text_do_not_go_past_the_guard(extra: dict[str, Any]) -> None:
    assert ask(door(SmallEngine([DONE]), Word()), {**CHAT, **extra}).error["code"] == "field_not_allowed"
    assert ask(door(SmallEngine([DONE])), {**CHAT, **extra}).status == 200


# --- the guard on prompts


@pytest.mark.parametrize("policy", ["before", "overlap"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_blocked_prompt_is_400_and_gets_nothing(policy: str, stream: bool) -> None:
    engine = SmallEngine([sse(chunk("answer")), DONE], {"choices": []})
    app = door(engine, Word(delay=0.05), guard={"input": policy, "window_tokens": 10, "overlap_tokens": 3})
    body = {"messages": [{"role": "user", "content": "BANNED"}], "stream": stream}
    result = ask(app, body)
    assert (result.status, result.error["code"]) == (400, "guard_blocked")
    assert b"answer" not in result.body
    assert len(engine.bodies) == (0 if policy == "before" else 1)


def test_overlap_lets_the_engine_start_and_stops_it() -> None:
    engine = SmallEngine([5.0, sse(chunk("answer")), DONE], whole_delay=5.0, answer={})
    for stream in (True, False):
        app = door(engine, Word(delay=0.05), guard={"input": "overlap"})
        start = monotonic()
        result = ask(app, {"messages": [{"role": "user", "content": "BANNED"}], "stream": stream})
        assert (result.status, result.error["code"]) == (400, "guard_blocked")
        assert monotonic() - start < 2, "the engine was not waited for"
    assert engine.aborted == 2


def test_overlap_hides_the_guards_time_behind_the_engines() -> None:
    engine = SmallEngine([0.2, sse(chunk("answer")), DONE])
    app = door(engine, Word(delay=0.2), guard={"input": "overlap", "output": False})
    start = monotonic()
    result = ask(app)
    assert (result.text(), result.done) == ("answer", True)
    assert monotonic() - start < 0.35


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
def test_every_part_of_a_conversation_is_read(message: dict[str, Any]) -> None:
    body = {"messages": [message, {"role": "user", "content": "go on"}], "stream": True}
    assert ask(door(SmallEngine([DONE]), Word()), body).error["code"] == "guard_blocked"


def test_descriptions_of_tools_are_read() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "BANNED", "parameters": {}}}
    assert ask(door(SmallEngine([DONE]), Word()), {**CHAT, "tools": [tool]}).error["code"] == "guard_blocked"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
        ("/v1/completions", {"prompt": [1, 2, 3]}),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}),
        ("/v1/completions", {"prompt": "a", "prompt_embeds": "AAAA"}),
    ],
)
def test_what_is_not_text_is_refused(path: str, body: dict[str, Any]) -> None:
    result = asyncio.run(call(door(SmallEngine(), Word()), path, body))
    assert (result.status, result.error["code"]) == (400, "guard_unreadable")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("policy", ["off", "before", "overlap"])
def test_a_dead_guard_serves_nothing(policy: str, stream: bool) -> None:
    engine = SmallEngine([sse(chunk("answer")), DONE], {"choices": [{"index": 0, "message": {"content": "answer"}}]})
    app = door(engine, Word(fail=True), guard={"input": policy})
    result = ask(app, {**CHAT, "stream": stream})
    assert b"answer" not in result.body
    error = result.payloads[-1]["error"] if result.status == 200 else result.error
    assert error["code"] == "guard_unavailable"
    if not (stream and policy == "off"):
        assert result.status == 503
        assert result.headers["retry-after"]
    ready = asyncio.run(call(app, "/ready", method="GET"))
    assert ready.status == 503
    assert "guard" in ready.json()["reasons"][0]
