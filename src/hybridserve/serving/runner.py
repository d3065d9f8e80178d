"""`hybridserve serve`: start everything, wait until it really answers, and end everything."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from hybridserve.errors import EnvironmentFault, HybridServeError
from hybridserve.serving.admission import admit
from hybridserve.serving.failure import root_cause
from hybridserve.serving.middleware.control import served_name
from hybridserve.serving.preflight import RAY_OBJECT_STORE_BYTES, check_machine
from hybridserve.serving.processes import adopt_orphans, end_descendants
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


class Stopped(BaseException):
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
        seconds: from start to ready.
        logs: folder with the logs of every process.
    """

    url: str
    model: str
    cache: str
    seconds: float
    logs: Path


def serve(settings: Settings, progress: Progress, on_ready: Callable[[Ready], None]) -> None:
    """Serve until SIGINT or SIGTERM; then drain and end every process that was started.

    Raises:
        GateClosed: its profile's checks failed; nothing was started.
        HybridServeError: it could not start, or the engine died for good.
    """
    progress.enter("checking this machine")
    check_machine(settings)
    admit(settings, date.today())
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    adopt_orphans()
    scratch = Path(tempfile.mkdtemp(prefix="hybridserve-"))
    failed = True
    try:
        with _stop_signals() as rearm:
            application = _deploy(settings, progress, scratch, rearm)
            on_ready(_wait_until_ready(settings, progress, application, scratch))
            _watch(application)
    except Stopped:
        failed = False
    finally:
        with _ignored_signals():
            progress.enter("stopping")
            _shut_down(scratch)
            if not failed:
                shutil.rmtree(scratch, ignore_errors=True)


def _deploy(settings: Settings, progress: Progress, scratch: Path, rearm: Callable[[], None]) -> Callable[[], Any]:
    """Start Ray and submit the application. Returns a function that gives its state as Serve sees it."""
    progress.enter("starting Ray")
    import ray
    from ray import serve as ray_serve
    from ray.serve import RunTarget

    from hybridserve.serving.ray_app import APPLICATION, build_app

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    replicas = settings.scaling.max_replicas
    devices = settings.engine.tensor_parallel_size * settings.engine.pipeline_parallel_size
    ray.init(
        num_cpus=max(os.cpu_count() or 1, replicas * (devices + 1) + 1),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=RAY_OBJECT_STORE_BYTES,
        _temp_dir=str(scratch),
    )
    rearm()  # ray.init has put its own handler in place
    progress.enter("starting Ray Serve")
    ray_serve.start(
        http_options={"host": settings.server.host, "port": settings.server.port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    progress.enter("starting the engine")
    target = RunTarget(
        target=build_app({"settings": settings.model_dump(mode="json")}), name=APPLICATION, route_prefix="/"
    )
    ray_serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    return lambda: ray_serve.status().applications.get(APPLICATION)


def _wait_until_ready(settings: Settings, progress: Progress, application: Callable[[], Any], scratch: Path) -> Ready:
    """Wait for Serve's own verdict: the proxy answers long before the model does."""
    deadline = time.monotonic() + settings.server.ready_timeout_s
    while True:
        state = application()
        status = str(state.status.value) if state else "NOT_STARTED"
        if status == "RUNNING":
            break
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            # The engine core is a process of its own: its reason is in the replica's log, not in Serve's message.
            logs = [log.read_text(errors="replace") for log in scratch.glob("session_latest/logs/worker-*.err")]
            messages = [deployment.message for deployment in state.deployments.values()]
            raise EnvironmentFault("engine", root_cause([*logs, *messages]), f"see the logs in {scratch}")
        if time.monotonic() > deadline:
            raise EnvironmentFault(
                "server.ready_timeout_s",
                f"not ready after {settings.server.ready_timeout_s:g} s (Ray Serve says {status})",
                f"raise it, or see the logs in {scratch}",
            )
        time.sleep(POLL_S)
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    url = f"http://{host}:{settings.server.port}"
    progress.enter("asking whether it may serve")
    _await_ok(f"{url}/ready", deadline)
    return Ready(url=url, model=served_name(settings), cache=_cache_line(), seconds=progress.elapsed(), logs=scratch)


def _cache_line() -> str:
    """The engine's own statement, asked inside of Ray: at the door it takes a key."""
    from ray import serve as ray_serve

    from hybridserve.serving.ray_app import APPLICATION

    line: str = ray_serve.get_app_handle(APPLICATION).cache_line.remote().result(timeout_s=60)
    return line


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


def _watch(application: Callable[[], Any]) -> None:
    """Stay until a signal; Serve itself replaces a dead replica."""
    while True:
        state = application()
        if state is None or state.status.value == "DEPLOY_FAILED":
            raise EnvironmentFault("engine", "the application is gone", "see the logs and start again")
        time.sleep(1.0)


def _shut_down(scratch: Path) -> None:
    """Let streams finish (Serve waits for the replicas), then end Ray and whatever outlived it."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        from ray import serve as ray_serve

        # Ray tells of every actor that it ends itself, in the middle of our last lines.
        with (scratch / "shutdown.log").open("w") as log, redirect_stderr(log), redirect_stdout(log):
            try:
                ray_serve.shutdown()
            except Exception:  # Serve may be the very thing that broke; the processes must end all the same.
                traceback.print_exc()
            ray.shutdown()
    end_descendants()


@contextmanager
def _stop_signals() -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM raise Stopped in the main thread. Gives a function that sets the handlers again."""

    def stop(_: int, __: FrameType | None) -> None:
        raise Stopped

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
