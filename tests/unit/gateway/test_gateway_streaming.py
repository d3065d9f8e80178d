"""Streams: ended honestly, and ended at the engine when the client is gone or stalls."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hybridserve.gateway import GatewayMiddleware
from hybridserve.settings import Settings
from support.fake_engine import DONE, Result, SmallEngine, call, chunk, sse
from support.guarded_gateway import CHAT, Word, ask, assert_cut, door
from support.metrics import samples

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

    result = ask(GatewayMiddleware(broken, Settings()))
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
    with pytest.raises(openai.APIError, match="interrupted"):
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
def test_a_cancelled_request_aborts_the_engine_as_a_hang_up_does(stream: bool) -> None:
    """Ray Serve cancels the task; the app must see a disconnect, for that is all that vLLM acts on."""
    engine = SmallEngine([sse(chunk("a")), 30.0, DONE], whole_delay=30.0, answer={})
    app = door(engine)

    async def go() -> None:
        task = asyncio.create_task(call(app, body={**CHAT, "stream": stream}))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)

    asyncio.run(go())
    assert engine.aborted == 1
    assert samples(app.state.metrics.streams_aborted) == {'hybridserve_streams_aborted_total{reason="client_gone"}': 1}
    assert app.state.limits.running == 0
    assert app.state.lifecycle.active == 0


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
    assert app.state.limits.running == 0


def test_an_app_that_gives_up_on_a_stalled_client_itself_is_cancelled_and_not_reset() -> None:
    """Half a second after it was told that its client is gone, the layer breaks its sending off; this app is faster."""
    ended: list[asyncio.Task[None]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        sending = asyncio.create_task(send({"type": "http.response.body", "body": sse(chunk("a")), "more_body": True}))
        await asyncio.sleep(0.45)
        sending.cancel()
        await asyncio.wait([sending])
        ended.append(sending)

    layer = GatewayMiddleware(app, Settings.model_validate({"access": {"stalled_reader_s": 0.2}}))
    asyncio.run(asyncio.wait_for(call(layer, body=CHAT, slow=60.0), 5))
    assert ended[0].cancelled()


def test_a_slow_client_that_still_reads_is_left_alone() -> None:
    engine = SmallEngine([sse(chunk("ab")) for _ in range(5)] + [DONE])
    result = ask(door(engine, access={"stalled_reader_s": 0.5}), slow=0.15)
    assert result.done


# --- drain


def test_draining_refuses_new_requests_and_finishes_old_ones() -> None:
    engine = SmallEngine([sse(chunk("a")), 2.0, sse(chunk("b")), DONE])
    app = door(engine)

    async def go() -> tuple[Result, Result, Result, bool, bool]:
        running = asyncio.create_task(call(app, body=CHAT))
        while not app.state.lifecycle.active:
            await asyncio.sleep(0.01)
        app.state.lifecycle.drain()
        refused = await call(app, body=CHAT)
        ready = await call(app, "/ready", method="GET")
        early = await app.state.lifecycle.drained(0.01)
        late = await app.state.lifecycle.drained(30.0)
        return await running, refused, ready, early, late

    result, refused, ready, early, late = asyncio.run(go())
    assert (result.text(), result.done) == ("ab", True)
    assert (refused.status, refused.error["code"]) == (503, "draining")
    assert refused.headers["retry-after"]
    assert (ready.status, ready.json()["reasons"]) == (503, ["draining"])
    assert (early, late) == (False, True)
    app.state.lifecycle.drain(False)
    assert ask(app).done


def test_a_dead_engine_is_not_ready() -> None:
    async def dead(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    result = asyncio.run(call(GatewayMiddleware(dead, Settings()), "/ready", method="GET"))
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
    assert app.state.limits.running == app.state.lifecycle.active == 0
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
