"""When an engine is unhealthy, and what its clients receive until the process has ended."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from time import monotonic
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from hybridserve.engine.monitor import EngineMonitor
from hybridserve.engine.watchdog import PERIOD_S, StallDetector, wait_until_unhealthy
from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.responses import guarded_response
from hybridserve.settings import Settings
from support.fake_engine import DONE, FakeEngine, chunk, request, sse

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


def test_stall_is_counted_only_with_work_and_ends_with_a_step() -> None:
    detector = StallDetector()
    assert [detector.update(5, True, 0.2) for _ in range(4)] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert detector.update(6, True, 0.2) == 0
    assert detector.update(6, True, 0.2) == pytest.approx(0.2)
    assert detector.update(6, False, 0.2) == 0


def test_paused_process_does_not_report_engine_stall() -> None:
    detector = StallDetector()
    detector.update(1, True, 0.2)
    assert detector.update(1, True, 3600.0) <= 2 * PERIOD_S


class FakeClock:
    """Time that passes only in `sleep`."""

    def __init__(self, until: float = 3600.0) -> None:
        self.now = 0.0
        self.until = until

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self.until:
            raise TimeoutError


def wait(clock: FakeClock, errored: Callable[[], bool], **engine: Any) -> None:
    asyncio.run(wait_until_unhealthy(errored, SimpleNamespace(steps=3, **engine), 0.5, clock=clock, sleep=clock.sleep))


def test_stalled_engine_is_unhealthy_after_the_timeout() -> None:
    clock = FakeClock()
    wait(clock, lambda: False, busy=True)
    assert 0.5 <= clock.now <= 0.5 + 3 * PERIOD_S


def test_dead_engine_is_unhealthy_at_once() -> None:
    clock, errored = FakeClock(), iter([False, True])
    wait(clock, lambda: next(errored), busy=False)
    assert clock.now == PERIOD_S


def test_idle_engine_is_healthy() -> None:
    with pytest.raises(TimeoutError):
        wait(FakeClock(), lambda: False, busy=False)


def test_stream_sends_nothing_before_its_first_event() -> None:
    """Until then HAProxy can retry the request on another replica."""
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
def test_error_of_dead_engine_is_delayed_before_the_first_event(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_error_after_the_first_token_is_sent_at_once() -> None:
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


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_wanted_stop_is_no_dead_engine(wanted: bool, caplog: pytest.LogCaptureFixture) -> None:
    monitor = EngineMonitor.__new__(EngineMonitor)  # __init__ needs vLLM
    engine = SimpleNamespace(errored=False)
    monitor._client, monitor._stall_timeout_s, monitor.stats = engine, 60.0, SimpleNamespace(steps=0, busy=False)
    monitor.watch(exit_when_dead=False)
    await asyncio.sleep(0)
    if wanted:
        monitor.stop_watching()
    engine.errored = True
    await asyncio.sleep(1.5 * PERIOD_S)
    assert ("engine_dead" in caplog.text) != wanted


def test_stopped_child_is_killed_with_its_parent() -> None:
    """Such as a stalled engine core: SIGTERM would have no effect on it."""
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
