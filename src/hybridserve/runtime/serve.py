"""`hybridserve serve`: starts the service, waits until it is ready, and ends every process that was started."""

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
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import httpx

from hybridserve.deployment.resolve import resolve_deployment
from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.engine.processes import adopt_orphans, kill_descendants
from hybridserve.errors import EnvironmentFault, HybridServeError
from hybridserve.observability.logging import ENGINE_CONFIG, LOG_DIR, LogForwarder, engine_config
from hybridserve.observability.metrics_server import forget_dead
from hybridserve.runtime.backends import Backend
from hybridserve.runtime.compliance_gate import enforce_compliance
from hybridserve.runtime.ingress import Ingress, select_ingress
from hybridserve.runtime.preflight import check_machine, check_versions
from hybridserve.settings import Settings

POLL_S = 0.1

# Variables for every process of the service, unless the user has set them.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
    "TOKENIZERS_PARALLELISM": "false",
    # Ray would print a stack trace and abort on SIGTERM, which here starts the drain.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    # Ray runs workers at niceness 15, so on a busy machine the engine would get no CPU time.
    "RAY_worker_niceness": "0",
    # Under `uv run` Ray would build a separate environment for every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


class ShutdownRequested(BaseException):
    """SIGINT or SIGTERM arrived. It is not an Exception, so that no library catches it."""


@dataclass(slots=True)
class Progress:
    """Phases of the start with their times. `report` is called with each phase as it begins."""

    report: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    phases: list[tuple[str, float]] = field(default_factory=list)

    def enter(self, phase: str) -> None:
        self.phases.append((phase, time.monotonic() - self.started))
        self.report(phase)

    def elapsed(self) -> float:
        return time.monotonic() - self.started


@dataclass(frozen=True, slots=True)
class Ready:
    """A service that is ready.

    Attributes:
        url: base URL of the API, without `/v1`.
        model: name for the request field `model`.
        cache: the engine's report of its cache capacity.
        data_path: how requests reach the engine.
        seconds: from start to ready.
        logs: folder with the logs of every process.
        tools: the engine parses tool calls.
    """

    url: str
    model: str
    cache: str
    data_path: str
    seconds: float
    logs: Path
    tools: bool


def serve(settings: Settings, progress: Progress, on_ready: Callable[[Ready], None]) -> None:
    """Serve until SIGINT or SIGTERM; then drain, and end every process that was started.

    Raises:
        ComplianceError: the profile refuses a finding; nothing was started.
        HybridServeError: it could not start, or the engine died and is not replaced.
    """
    progress.enter("checking this machine")
    ingress = select_ingress(settings)
    check_versions(settings, ray=ingress != "single")
    spec = resolve_deployment(settings, datetime.now(UTC).date())
    check_machine(spec, ray=ingress != "single")
    enforce_compliance(spec)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    adopt_orphans()
    scratch = Path(tempfile.mkdtemp(prefix="hybridserve-"))
    forwarder = _forward_logs(settings, scratch)
    failed = True
    backend = _backend(ingress, spec, scratch)
    try:
        with _stop_signals() as rearm:
            backend.start(progress.enter, rearm)
            on_ready(_wait_until_ready(spec, progress, backend, scratch))
            while backend.running():
                time.sleep(1.0)
            raise EnvironmentFault(
                "engine", "the Ray Serve application stopped unexpectedly", "see the logs and start again"
            )
    except ShutdownRequested:
        failed = False
    finally:
        with _ignored_signals():
            progress.enter("stopping")
            backend.stop()
            kill_descendants()
            if settings.telemetry.targets_dir is not None:
                # Ray kills its processes, so they cannot remove their own target files; another container may get
                # their address next.
                forget_dead(settings.telemetry.targets_dir)
            forwarder.stop()
            if not failed:
                shutil.rmtree(scratch, ignore_errors=True)


def _forward_logs(settings: Settings, scratch: Path) -> LogForwarder:
    """Copy the log lines of every process to standard error, in one format."""
    folder = scratch / "log"
    folder.mkdir()
    os.environ[LOG_DIR] = str(folder)
    if settings.telemetry.log_format == "json" and ENGINE_CONFIG not in os.environ:
        engine = folder / "vllm.json"
        engine.write_text(json.dumps(engine_config(settings.telemetry)), encoding="utf-8")
        os.environ[ENGINE_CONFIG] = str(engine)
    forwarder = LogForwarder(folder, sys.stderr)
    forwarder.start()
    return forwarder


def _backend(ingress: Ingress, spec: DeploymentSpec, scratch: Path) -> Backend:
    """The backend of this ingress. Ray is imported only where it is used."""
    if ingress == "single":
        from hybridserve.runtime.backends.standalone import StandaloneBackend

        return StandaloneBackend(spec, scratch)
    from hybridserve.runtime.backends.local_ray import LocalRayBackend

    return LocalRayBackend(ingress, spec, scratch)


def _wait_until_ready(spec: DeploymentSpec, progress: Progress, backend: Backend, scratch: Path) -> Ready:
    """Wait for the backend, then for ``GET /ready``: a proxy answers long before the model does."""
    server = spec.settings.server
    deadline = time.monotonic() + server.ready_timeout_s
    while not backend.running():
        if time.monotonic() > deadline:
            raise EnvironmentFault(
                "server.ready_timeout_s",
                f"not ready after {server.ready_timeout_s:g} s ({backend.status})",
                f"raise it, or see the logs in {scratch}",
            )
        time.sleep(POLL_S)
    host = f"[{server.host}]" if ":" in server.host else server.host
    url = f"http://{host}:{server.port}"
    progress.enter("waiting for the readiness check")
    _await_ok(f"{url}/ready", deadline)
    return Ready(
        url=url,
        model=spec.served_name,
        cache=backend.cache_line(),
        data_path=backend.data_path,
        seconds=progress.elapsed(),
        logs=scratch,
        tools="tool_call_parser" in spec.engine_args,
    )


def _await_ok(url: str, deadline: float) -> None:
    """Request `url` until it returns 200: the proxy learns the route late, and the guard's self-test takes time."""
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
    """SIGINT and SIGTERM raise ShutdownRequested in the main thread. Yields a function that sets the handlers again."""

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
    """Ignore SIGINT and SIGTERM, so that a second Ctrl-C does not leave processes behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["HybridServeError", "Progress", "Ready", "serve"]
