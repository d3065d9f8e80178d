"""Streams: guarded in windows, ended honestly, and ended at the engine when the client is gone."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any

import pytest
from small_engine import DONE, Result, SmallEngine, call, chunk, sse

from hybridserve.serving.guards import Message, Reliable, Stage, Verdict
from hybridserve.serving.middleware import Control, ControlMiddleware, Handover
from hybridserve.settings import Settings

CHAT = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
BANNED = "-----BEGIN PRIVATE KEY-----"


class Word:
    """A guard that blocks a word on either side, and remembers what it was asked."""

    name = "word"
    instant = False

    def __init__(self, word: str = "BANNED", delay: float = 0.0, fail: bool = False) -> None:
        self.word = word
        self.delay = delay
        self.fail = fail
        self.closed = False
        self.asked: list[tuple[Stage, list[Message]]] = []

    async def check(self, messages: Any, stage: Stage) -> Verdict:
        self.asked.append((stage, list(messages)))
        await asyncio.sleep(self.delay)
        if self.fail:
            raise ZeroDivisionError
        judged = messages[-1:] if stage == "output" else messages
        bad = any(self.word in message["content"] for message in judged)
        return Verdict("block" if bad else "allow", self.name, ("Word",) if bad else ())

    async def probe(self) -> None:
        if self.fail:
            raise ZeroDivisionError

    async def close(self) -> None:
        self.closed = True


def door(engine: SmallEngine, word: Word | None = None, **sections: Any) -> ControlMiddleware:
    if word is not None:
        sections["guard"] = {"kind": "rules", "window_tokens": 10, "overlap_tokens": 3, **sections.get("guard", {})}
    settings = Settings.model_validate(sections)
    shell = None if word is None else Reliable(word, retries=0, timeout_s=settings.guard.timeout_s)
    return ControlMiddleware(engine, control=Control(Handover(settings), guard=shell))


def ask(app: Any, body: Any = CHAT, **more: Any) -> Result:
    return asyncio.run(call(app, body=body, **more))


def assert_cut(result: Result, code: str) -> None:
    """The client can tell: the last event is an error, no [DONE] follows, and the answer is complete HTTP.

    Where nothing had left before, the answer is an error with its status.
    """
    assert not result.done
    error = result.payloads[-1]["error"] if result.status == 200 else result.error
    assert error["code"] == code
    assert result.complete


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


# --- how a stream ends


@pytest.mark.parametrize("guard", [None, Word()])
def test_a_stream_that_was_cut_never_looks_finished(guard: Word | None) -> None:
    for engine in (
        SmallEngine([sse(chunk("half an ans"))]),
        SmallEngine([sse(chunk("half an ans")), b'data: {"choices": [{"del']),
        SmallEngine([sse(chunk("half an ans")), RuntimeError("dead")]),
        SmallEngine([sse(chunk("half an ans"))], hide_end=True),
        SmallEngine([sse(chunk("[DONE]")), sse(chunk("data: [DONE]"))]),
        SmallEngine([sse(chunk("a\n\ndata: [DONE]\n\n"))]),
        SmallEngine([]),
    ):
        assert_cut(ask(door(engine, guard)), "stream_interrupted")


@pytest.mark.parametrize("guard", [None, Word()])
def test_an_error_in_the_stream_is_no_good_end_and_tells_no_secrets(guard: Word | None) -> None:
    error = {"error": {"message": 'Traceback (most recent call last):\n File "/secret"', "code": 500}}
    for pieces in ([sse(chunk("a")), sse(error), DONE], [sse(chunk("a")) + sse(error) + DONE], [sse(error)]):
        result = ask(door(SmallEngine(list(pieces)), guard))
        assert not result.done
        assert result.payloads[-1]["error"]["message"] == "The engine failed on this request."
        assert b"secret" not in result.body


def test_an_app_that_fails_before_its_answer_is_a_clean_500() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("prompt was: hello")

    result = ask(ControlMiddleware(broken, Settings()))
    assert (result.status, result.error["code"]) == (500, "engine_error")
    assert b"hello" not in result.body


def test_the_openai_client_can_tell_an_end_from_a_cut() -> None:
    import httpx
    import openai

    async def read(engine: SmallEngine, guard: Word | None) -> str:
        transport = httpx.ASGITransport(door(engine, guard))
        client = openai.AsyncOpenAI(
            api_key="x", base_url="http://t/v1", http_client=httpx.AsyncClient(transport=transport), max_retries=0
        )
        stream = await client.chat.completions.create(model="m", messages=CHAT["messages"], stream=True)  # type: ignore[call-overload]
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    pieces = [sse({**base, **chunk(text)}) for text in ("one ", "two")]
    assert asyncio.run(read(SmallEngine([*pieces, DONE]), None)) == "one two"
    with pytest.raises(openai.APIError, match="cut off"):
        asyncio.run(read(SmallEngine(list(pieces)), None))
    with pytest.raises(openai.APIError, match="blocked by the safety guard"):
        asyncio.run(read(SmallEngine([*pieces, sse({**base, **chunk("BANNED")}), DONE]), Word()))


# --- clients that go away, and clients that stall


@pytest.mark.parametrize("guard", [None, Word()])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_aborts_the_engine(stream: bool, guard: Word | None) -> None:
    engine = SmallEngine([sse(chunk("abc" * 20)), 30.0, DONE], whole_delay=30.0, answer={})
    app = door(engine, guard)

    async def go() -> None:
        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, gone.set)
        await asyncio.wait_for(call(app, body={**CHAT, "stream": stream}, hang_up=gone), 5)

    asyncio.run(go())
    assert (engine.aborted, engine.finished) == (1, 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_cancelled_request_aborts_the_engine_as_a_hang_up_does(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve cancels the task; the app must see a disconnect, for that is all that vLLM acts on."""
    engine = SmallEngine([sse(chunk("a")), 30.0, DONE], whole_delay=30.0, answer={})
    app = door(engine)
    counted: list[tuple[str, Any]] = []
    monkeypatch.setattr(app.control.metrics, "count", lambda *what: counted.append(what))

    async def go() -> None:
        task = asyncio.create_task(call(app, body={**CHAT, "stream": stream}))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)

    asyncio.run(go())
    assert engine.aborted == 1
    assert ("hybridserve_streams_cut_total", {"reason": "client_gone"}) in counted
    assert app.control.limits.running == 0
    assert app.control.active == 0


def test_a_client_that_hangs_up_while_its_answer_is_judged() -> None:
    engine = SmallEngine([sse(chunk("x" * 50)), 30.0, DONE])
    app = door(engine, Word(delay=1.0))

    async def go() -> None:
        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(1.3, gone.set)
        await asyncio.wait_for(call(app, body=CHAT, hang_up=gone), 10)

    asyncio.run(go())
    assert engine.aborted == 1


def test_a_client_that_takes_nothing_is_cut_off() -> None:
    engine = SmallEngine([sse(chunk("a")), sse(chunk("b")), DONE])
    app = door(engine, access={"stalled_reader_s": 0.2})

    async def go() -> None:
        await asyncio.wait_for(call(app, body=CHAT, slow=60.0), 5)

    asyncio.run(go())
    assert engine.aborted == 1
    assert app.control.limits.running == 0


def test_a_slow_client_that_still_reads_is_left_alone() -> None:
    engine = SmallEngine([sse(chunk("ab")) for _ in range(5)] + [DONE])
    result = ask(door(engine, access={"stalled_reader_s": 0.5}), slow=0.15)
    assert result.done


# --- drain and gate


def test_draining_refuses_new_requests_and_finishes_old_ones() -> None:
    engine = SmallEngine([sse(chunk("a")), 0.3, sse(chunk("b")), DONE])
    app = door(engine)

    async def go() -> tuple[Result, Result, Result, bool, bool]:
        running = asyncio.create_task(call(app, body=CHAT))
        await asyncio.sleep(0.1)
        app.control.drain()
        refused = await call(app, body=CHAT)
        ready = await call(app, "/ready", method="GET")
        early = await app.control.drained(0.01)
        late = await app.control.drained(2.0)
        return await running, refused, ready, early, late

    result, refused, ready, early, late = asyncio.run(go())
    assert (result.text(), result.done) == ("ab", True)
    assert (refused.status, refused.error["code"]) == (503, "draining")
    assert refused.headers["retry-after"]
    assert (ready.status, ready.json()["reasons"]) == (503, ["draining"])
    assert (early, late) == (False, True)
    app.control.drain(False)
    assert ask(app).done


def test_a_closed_gate_serves_nothing() -> None:
    app = door(SmallEngine([DONE]))
    app.control.close_gate("the licence of this model lapsed")
    result = ask(app)
    assert (result.status, result.error["code"]) == (503, "gate_closed")
    assert asyncio.run(call(app, "/ready", method="GET")).status == 503
    app.control.open_gate()
    assert ask(app).status == 200
    assert asyncio.run(call(app, "/ready", method="GET")).json() == {"ready": True, "reasons": []}


def test_a_dead_engine_is_not_ready() -> None:
    async def dead(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    result = asyncio.run(call(ControlMiddleware(dead, Settings()), "/ready", method="GET"))
    assert result.status == 503
    assert "engine" in result.json()["reasons"][0]


def test_many_streams_leave_nothing_behind() -> None:
    engine = SmallEngine([sse(chunk()), *[sse(chunk(f"w{i} ")) for i in range(20)], DONE])
    app = door(engine, Word(), access={"tokens_per_minute": 10_000_000})

    async def go() -> None:
        for _ in range(5):
            results = await asyncio.gather(*[call(app, body=CHAT) for _ in range(100)])
            assert all(result.done for result in results)
        await asyncio.sleep(0)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not others, "no task is left"

    asyncio.run(go())
    assert app.control.limits.running == app.control.active == 0
    assert json.dumps(engine.finished) == "500"


def test_with_the_server_end_its_rounds_and_the_guards_connections() -> None:
    word = Word()
    app = door(SmallEngine([DONE]), word)

    async def server(scope: Any, receive: Any, send: Any) -> None:
        assert not word.closed
        await asyncio.sleep(0.01)

    async def go() -> None:
        app.app = server
        await app({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == 1, "the rounds have ended"

    asyncio.run(go())
    assert word.closed


def test_what_comes_after_the_end_belongs_to_nothing() -> None:
    """Found by fuzzing: rubbish, or a failure, behind [DONE] gave its client an error for a whole answer."""
    whole = [sse(chunk("hi")), DONE]
    for rest in ([b"@"], [b"data: {no json\n\n"], [RuntimeError("late")], [sse({"error": {"message": "late"}})]):
        for guard in (Word(), None):
            result = ask(door(SmallEngine([*whole, *rest]), guard))
            assert (result.text(), result.done, result.complete) == ("hi", True, True)
            assert b"error" not in result.body


@pytest.mark.parametrize("kind", [["text"], {"a": 1}, 5, None])
def test_a_part_whose_type_is_no_word_is_400(kind: Any) -> None:
    """Found by fuzzing: a list for a type was a 500."""
    body = {"messages": [{"role": "user", "content": [{"type": kind, "text": "a"}]}]}
    result = ask(door(SmallEngine(answer={}), Word()), body)
    assert (result.status, result.error["code"]) == (400, "guard_unreadable")
