"""`hybridserve serve`: start everything, wait until it really answers, and end everything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import FrameType

import httpx

from hybridserve.engine.processes import adopt_orphans, kill_descendants
from hybridserve.errors import EnvironmentFault, HybridServeError
from hybridserve.gateway.config import GatewayConfig
from hybridserve.gateway.state import served_name
from hybridserve.observability.logging import ENGINE_CONFIG, LOG_DIR, LogForwarder, engine_config
from hybridserve.observability.metrics_server import forget_dead
from hybridserve.runtime.backends import Backend
from hybridserve.runtime.compliance_gate import enforce_compliance
from hybridserve.runtime.ingress import Ingress, select_ingress
from hybridserve.runtime.preflight import check_machine
from hybridserve.settings import Settings

POLL_S = 0.1

# For every process of the stack, unless the user has set them.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
    "TOKENIZERS_PARALLELISM": "false",
    # Ray would print a stack and abort on SIGTERM; here SIGTERM is a request to drain.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    # Ray runs workers at niceness 15, so that a busy machine starves the one process that everybody waits for.
    "RAY_worker_niceness": "0",
    # Under `uv run` Ray would build an environment of its own for every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


class ShutdownRequested(BaseException):
    """SIGINT or SIGTERM arrived. Not an Exception, so that no library swallows it."""


@dataclass(slots=True)
class Progress:
    """Phases of the start with their times, told to a listener as they begin."""

    tell: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    phases: list[tuple[str, float]] = field(default_factory=list)

    def enter(self, phase: str) -> None:
        self.phases.append((phase, time.monotonic() - self.started))
        self.tell(phase)

    def elapsed(self) -> float:
        return time.monotonic() - self.started


@dataclass(frozen=True, slots=True)
class Ready:
    """A service that answers.

    Attributes:
        url: address of the API.
        model: name to put into `model`.
        cache: the engine's own statement of its capacity.
        data_path: how requests reach the engine.
        seconds: from start to ready.
        logs: folder with the logs of every process.
    """

    url: str
    model: str
    cache: str
    data_path: str
    seconds: float
    logs: Path


def serve(settings: Settings, progress: Progress, on_ready: Callable[[Ready], None]) -> None:
    """Serve until SIGINT or SIGTERM; then drain and end every process that was started.

    Raises:
        ComplianceError: its profile's checks failed; nothing was started.
        HybridServeError: it could not start, or the engine died for good.
    """
    progress.enter("checking this machine")
    path = select_ingress(settings)
    check_machine(settings, ray=path != "single")
    handover = enforce_compliance(settings, date.today())
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    adopt_orphans()
    scratch = Path(tempfile.mkdtemp(prefix="hybridserve-"))
    lines = _gather_logs(settings, scratch)
    failed = True
    host = _host(path, settings, handover, scratch)
    try:
        with _stop_signals() as rearm:
            host.start(progress.enter, rearm)
            on_ready(_wait_until_ready(settings, progress, host, scratch))
            while host.running():
                time.sleep(1.0)
            raise EnvironmentFault("engine", "the application is gone", "see the logs and start again")
    except ShutdownRequested:
        failed = False
    finally:
        with _ignored_signals():
            progress.enter("stopping")
            host.stop()
            kill_descendants()
            if settings.telemetry.targets_dir is not None:
                # Ray ends its processes without a goodbye; another container may get their address next.
                forget_dead(settings.telemetry.targets_dir)
            lines.stop()
            if not failed:
                shutil.rmtree(scratch, ignore_errors=True)


def _gather_logs(settings: Settings, scratch: Path) -> LogForwarder:
    """Lines of every process to standard error, in one form."""
    folder = scratch / "log"
    folder.mkdir()
    os.environ[LOG_DIR] = str(folder)
    if settings.telemetry.log_format == "json" and ENGINE_CONFIG not in os.environ:
        engine = folder / "vllm.json"
        engine.write_text(json.dumps(engine_config(settings.telemetry)), encoding="utf-8")
        os.environ[ENGINE_CONFIG] = str(engine)
    lines = LogForwarder(folder, sys.stderr)
    lines.start()
    return lines


def _host(path: Ingress, settings: Settings, handover: GatewayConfig, scratch: Path) -> Backend:
    """What runs the engine. Ray is imported only where it is used."""
    if path == "single":
        from hybridserve.runtime.backends.standalone import StandaloneBackend

        return StandaloneBackend(settings, handover, scratch)
    from hybridserve.runtime.backends.ray_serve import RayServeBackend

    return RayServeBackend(path, settings, scratch)


def _wait_until_ready(settings: Settings, progress: Progress, host: Backend, scratch: Path) -> Ready:
    """Wait for the host's own verdict: a proxy answers long before the model does."""
    deadline = time.monotonic() + settings.server.ready_timeout_s
    while not host.running():
        if time.monotonic() > deadline:
            raise EnvironmentFault(
                "server.ready_timeout_s",
                f"not ready after {settings.server.ready_timeout_s:g} s ({host.status})",
                f"raise it, or see the logs in {scratch}",
            )
        time.sleep(POLL_S)
    name = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    url = f"http://{name}:{settings.server.port}"
    progress.enter("asking whether it may serve")
    _await_ok(f"{url}/ready", deadline)
    return Ready(
        url=url,
        model=served_name(settings),
        cache=host.cache_line(),
        data_path=host.data_path,
        seconds=progress.elapsed(),
        logs=scratch,
    )


def _await_ok(url: str, deadline: float) -> None:
    """Ask until it answers 200: the proxy learns the route late, and a guard may not be seen to work yet."""
    while True:
        try:
            answer = httpx.get(url, timeout=10, trust_env=False)
            if answer.status_code == 200:
                return
            problem = f"HTTP {answer.status_code} {answer.text[:500]}".strip()
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise EnvironmentFault("server", f"{url} does not become ready: {problem}", "see the logs")
        time.sleep(POLL_S)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM raise ShutdownRequested in the main thread. Gives a function that sets the handlers again."""

    def stop(_: int, __: FrameType | None) -> None:
        raise ShutdownRequested

    def arm() -> None:
        for number in before:
            signal.signal(number, stop)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    arm()
    try:
        yield arm
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ignored_signals() -> Iterator[None]:
    """A second Ctrl-C must not leave half of the processes behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["HybridServeError", "Progress", "Ready", "serve"]
