"""When is an engine taken for lost, and what its clients see until the process has ended."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from time import monotonic
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from hybridserve.engine.watchdog import PERIOD_S, StallDetector, wait_until_unhealthy
from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.responses import guarded_response
from hybridserve.settings import Settings
from support.fake_engine import DONE, FakeEngine, chunk, request, sse

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


def test_silence_counts_only_with_work_and_ends_with_a_word() -> None:
    silence = StallDetector()
    assert [silence.look(5, True, 0.2) for _ in range(4)] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert silence.look(6, True, 0.2) == 0
    assert silence.look(6, True, 0.2) == pytest.approx(0.2)
    assert silence.look(6, False, 0.2) == 0


def test_a_process_that_was_stopped_itself_blames_nobody() -> None:
    silence = StallDetector()
    silence.look(1, True, 0.2)
    assert silence.look(1, True, 3600.0) <= 2 * PERIOD_S


async def test_a_stalled_engine_and_a_dead_one_are_lost() -> None:
    began = monotonic()
    await wait_until_unhealthy(lambda: False, SimpleNamespace(steps=3, busy=True), 0.5)  # type: ignore[arg-type]
    assert 0.5 <= monotonic() - began < 5
    dead = iter([False, True])
    await wait_until_unhealthy(lambda: next(dead), SimpleNamespace(steps=3, busy=False), 0.1)  # type: ignore[arg-type]


async def test_an_idle_engine_is_not() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wait_until_unhealthy(lambda: False, SimpleNamespace(steps=3, busy=False), 0.1), 1.0)  # type: ignore[arg-type]


def test_a_stream_says_nothing_before_its_first_piece() -> None:
    """So that HAProxy can hand the request to another replica up to then."""
    started: list[float] = []
    engine = FakeEngine([0.3, sse(chunk("hi")), DONE])
    app = GatewayMiddleware(engine, Settings())

    async def timed(scope: Any, receive: Any, send: Any) -> None:
        async def out(message: Any) -> None:
            started.append(monotonic())
            await send(message)

        await app(scope, receive, out)

    began = monotonic()
    result = asyncio.run(request(timed, body={**CHAT, "stream": True}))
    assert result.done
    assert started[0] - began >= 0.3


@pytest.mark.parametrize("stream", [True, False])
def test_a_dead_engines_error_is_held_while_nothing_was_said(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_response, "_ENGINE_LOST_WAIT_S", 0.3)
    error = {"error": {"message": "EngineCore encountered an issue", "code": 500}}
    engine = FakeEngine([sse(error), DONE], error, status=200 if stream else 500)
    app = GatewayMiddleware(engine, Settings())
    app.state.lifecycle.engine_lost = lambda: True
    began = monotonic()
    result = asyncio.run(request(app, body={**CHAT, "stream": stream}))
    assert monotonic() - began >= 0.3
    assert not result.done
    assert b"error" in result.body


def test_after_the_first_token_the_client_is_told_at_once() -> None:
    lost: list[bool] = []
    engine = FakeEngine([sse(chunk("hi")), 0.2, sse({"error": {"message": "dead", "code": 500}}), DONE])
    app = GatewayMiddleware(engine, Settings())
    app.state.lifecycle.engine_lost = lambda: bool(lost)

    async def dies() -> Any:
        asyncio.get_running_loop().call_later(0.1, lost.append, True)
        return await request(app, body={**CHAT, "stream": True})

    began = monotonic()
    result = asyncio.run(dies())
    assert monotonic() - began < 3
    assert result.payloads[-1]["error"]["code"]
    assert not result.done


def test_a_stopped_child_ends_with_its_parent() -> None:
    """As a stalled engine core with its replica: SIGTERM would wait for ever."""
    script = (
        "import subprocess, os, signal, sys\n"
        "from hybridserve.engine.processes import kill_self_and_descendants\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "os.kill(child.pid, signal.SIGSTOP)\n"
        "print(child.pid, flush=True)\n"
        "kill_self_and_descendants(7)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 7
    pid = int(run.stdout)
    deadline = monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert monotonic() < deadline
