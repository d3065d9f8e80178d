"""Ends of streams, clients that disconnect or stall, drain and readiness."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hybridserve.gateway import GatewayMiddleware
from support.fake_engine import DONE, FakeEngine, Response, chunk, request, sse
from support.gateway_client import STREAM_CHAT, WordGuard, assert_incomplete, gateway, get, send_stream
from support.metrics import samples

# --- ends of streams


@pytest.mark.parametrize("guard", [None, WordGuard()])
def test_interrupted_stream_ends_with_error(guard: WordGuard | None) -> None:
    for engine in (
        FakeEngine([sse(chunk("half an ans"))]),
        FakeEngine([sse(chunk("half an ans")), b'data: {"choices": [{"del']),
        FakeEngine([sse(chunk("half an ans")), RuntimeError("dead")]),
        FakeEngine([sse(chunk("half an ans"))], no_end=True),
        FakeEngine([sse(chunk("[DONE]")), sse(chunk("data: [DONE]"))]),
        FakeEngine([sse(chunk("a\n\ndata: [DONE]\n\n"))]),
        FakeEngine([]),
    ):
        assert_incomplete(send_stream(gateway(engine, guard)), "stream_interrupted")


@pytest.mark.parametrize("guard", [None, WordGuard()])
def test_error_event_is_cleaned_and_ends_the_stream(guard: WordGuard | None) -> None:
    error = {"error": {"message": 'Traceback (most recent call last):\n File "/secret"', "code": 500}}
    for pieces in ([sse(chunk("a")), sse(error), DONE], [sse(chunk("a")) + sse(error) + DONE], [sse(error)]):
        result = send_stream(gateway(FakeEngine(list(pieces)), guard))
        assert not result.done
        assert result.payloads[-1]["error"]["message"] == "The engine failed on this request."
        assert b"secret" not in result.body


def test_app_exception_before_response_is_500() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("prompt was: hello")

    result = send_stream(gateway(broken))
    assert (result.status, result.error["code"]) == (500, "engine_error")
    assert b"hello" not in result.body


def test_openai_client_detects_incomplete_stream() -> None:
    import httpx
    import openai

    async def read(engine: FakeEngine, guard: WordGuard | None) -> str:
        transport = httpx.ASGITransport(gateway(engine, guard))
        client = openai.AsyncOpenAI(
            api_key="x", base_url="http://t/v1", http_client=httpx.AsyncClient(transport=transport), max_retries=0
        )
        stream = await client.chat.completions.create(model="m", messages=STREAM_CHAT["messages"], stream=True)  # type: ignore[call-overload]
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    pieces = [sse({**base, **chunk(text)}) for text in ("one ", "two")]
    assert asyncio.run(read(FakeEngine([*pieces, DONE]), None)) == "one two"
    with pytest.raises(openai.APIError, match="interrupted"):
        asyncio.run(read(FakeEngine(list(pieces)), None))
    with pytest.raises(openai.APIError, match="blocked by the safety guard"):
        asyncio.run(read(FakeEngine([*pieces, sse({**base, **chunk("BANNED")}), DONE]), WordGuard()))


# --- clients that disconnect or stall


def disconnected(app: GatewayMiddleware, after_s: float = 0.1, body: Any = STREAM_CHAT) -> None:
    """Send one request and disconnect after some seconds."""

    async def run() -> None:
        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(after_s, gone.set)
        await asyncio.wait_for(request(app, body=body, disconnect=gone), 10)

    asyncio.run(run())


@pytest.mark.parametrize("guard", [None, WordGuard()])
@pytest.mark.parametrize("stream", [True, False])
def test_client_disconnect_aborts_engine(stream: bool, guard: WordGuard | None) -> None:
    engine = FakeEngine([sse(chunk("abc" * 20)), 30.0, DONE], delay=30.0, answer={})
    disconnected(gateway(engine, guard), body={**STREAM_CHAT, "stream": stream})
    assert (engine.aborted, engine.finished) == (1, 0)


@pytest.mark.parametrize("stream", [True, False])
def test_cancelled_request_aborts_engine(stream: bool) -> None:
    """Ray Serve cancels the task; the app must get a disconnect, the only event on which vLLM aborts."""
    engine = FakeEngine([sse(chunk("a")), 30.0, DONE], delay=30.0, answer={})
    app = gateway(engine)

    async def run() -> None:
        task = asyncio.create_task(request(app, body={**STREAM_CHAT, "stream": stream}))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)

    asyncio.run(run())
    assert engine.aborted == 1
    assert samples(app.state.metrics.streams_aborted) == {'hybridserve_streams_aborted_total{reason="client_gone"}': 1}
    assert app.state.limits.running == 0
    assert app.state.lifecycle.active == 0


def test_client_disconnect_during_output_check_aborts_engine() -> None:
    engine = FakeEngine([sse(chunk("x" * 50)), 30.0, DONE])
    disconnected(gateway(engine, WordGuard(delay=0.3)), after_s=0.45)
    assert engine.aborted == 1


def test_stalled_client_is_disconnected() -> None:
    engine = FakeEngine([sse(chunk("a")), sse(chunk("b")), DONE])
    app = gateway(engine, access={"stalled_reader_s": 0.2})
    asyncio.run(asyncio.wait_for(request(app, body=STREAM_CHAT, slow=60.0), 5))
    assert engine.aborted == 1
    assert app.state.limits.running == 0


def test_app_that_cancels_its_own_send_sees_cancellation() -> None:
    """The gateway cancels a blocked send half a second after the disconnect; this app does so earlier."""
    ended: list[asyncio.Task[None]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        sending = asyncio.create_task(send({"type": "http.response.body", "body": sse(chunk("a")), "more_body": True}))
        await asyncio.sleep(0.45)
        sending.cancel()
        await asyncio.wait([sending])
        ended.append(sending)

    stalling = gateway(app, access={"stalled_reader_s": 0.2})
    asyncio.run(asyncio.wait_for(request(stalling, body=STREAM_CHAT, slow=60.0), 5))
    assert ended[0].cancelled()


def test_slow_client_is_not_disconnected() -> None:
    engine = FakeEngine([sse(chunk("ab")) for _ in range(5)] + [DONE])
    result = send_stream(gateway(engine, access={"stalled_reader_s": 0.5}), slow=0.15)
    assert result.done


# --- drain


def test_drain_rejects_new_requests_and_finishes_running_ones() -> None:
    engine = FakeEngine([sse(chunk("a")), 0.5, sse(chunk("b")), DONE])
    app = gateway(engine)

    async def run() -> tuple[Response, Response, Response, bool, bool]:
        running = asyncio.create_task(request(app, body=STREAM_CHAT))
        while not app.state.lifecycle.active:
            await asyncio.sleep(0.01)
        app.state.lifecycle.drain()
        rejected = await request(app, body=STREAM_CHAT)
        ready = await request(app, "/ready", method="GET")
        early = await app.state.lifecycle.drained(0.01)
        late = await app.state.lifecycle.drained(30.0)
        return await running, rejected, ready, early, late

    result, rejected, ready, early, late = asyncio.run(run())
    assert (result.text(), result.done) == ("ab", True)
    assert (rejected.status, rejected.error["code"]) == (503, "draining")
    assert rejected.headers["retry-after"]
    assert (ready.status, ready.json()["reasons"]) == (503, ["draining"])
    assert (early, late) == (False, True)
    app.state.lifecycle.drain(False)
    assert send_stream(app).done


def test_unhealthy_engine_is_not_ready() -> None:
    async def dead(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    result = get(gateway(dead), "/ready")
    assert result.status == 503
    assert "engine" in result.json()["reasons"][0]


def test_many_streams_leave_no_tasks_or_slots() -> None:
    engine = FakeEngine([sse(chunk()), *[sse(chunk(f"w{i} ")) for i in range(20)], DONE])
    app = gateway(engine, WordGuard(), access={"tokens_per_minute": 10_000_000})

    async def run() -> None:
        for _ in range(5):
            results = await asyncio.gather(*[request(app, body=STREAM_CHAT) for _ in range(100)])
            assert all(result.done for result in results)
        await asyncio.sleep(0)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not others, "no task is left"

    asyncio.run(run())
    assert app.state.limits.running == app.state.lifecycle.active == 0
    assert engine.finished == 500


def test_shutdown_ends_self_test_and_closes_guard() -> None:
    guard = WordGuard()
    app = gateway(FakeEngine([DONE]), guard)

    async def server(scope: Any, receive: Any, send: Any) -> None:
        assert not guard.closed
        await asyncio.sleep(0.01)

    async def run() -> None:
        app.app = server
        await app({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > 1:  # until the self-test has ended
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert guard.closed


def test_data_after_done_is_dropped() -> None:
    """Found by fuzzing: data or an exception after [DONE] turned a complete response into an error."""
    whole = [sse(chunk("hi")), DONE]
    for rest in ([b"@"], [b"data: {no json\n\n"], [RuntimeError("late")], [sse({"error": {"message": "late"}})]):
        for guard in (WordGuard(), None):
            result = send_stream(gateway(FakeEngine([*whole, *rest]), guard))
            assert (result.text(), result.done, result.complete) == ("hi", True, True)
            assert b"error" not in result.body


@pytest.mark.parametrize("kind", [["text"], {"a": 1}, 5, None])
def test_message_part_with_invalid_type_is_400(kind: Any) -> None:
    """Found by fuzzing: a list as type was a 500."""
    body = {"messages": [{"role": "user", "content": [{"type": kind, "text": "a"}]}]}
    result = send_stream(gateway(FakeEngine(answer={}), WordGuard()), body)
    assert (result.status, result.error["code"]) == (400, "guard_unreadable")
