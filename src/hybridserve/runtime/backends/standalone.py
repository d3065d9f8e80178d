"""vLLM's own server in one child process, with the control layer mounted in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hybridserve.engine.patches.preload import ENVIRONMENT
from hybridserve.errors import EnvironmentFault
from hybridserve.gateway.config import GatewayConfig
from hybridserve.planning.render import command_line
from hybridserve.planning.resolve import engine_args, engine_environment
from hybridserve.runtime.root_cause import root_cause
from hybridserve.settings import Settings
from hybridserve.settings.load import SETTINGS_JSON

DOOR = "hybridserve.engine.vllm_middleware.VLLMMiddleware"
EXECUTOR = "hybridserve.engine.patches.inline_executor.InlineExecutor"
# After its streams have ended the engine still has to end itself.
_END_S = 30.0


class StandaloneBackend:
    """One `vllm serve`."""

    data_path = "single"

    def __init__(self, settings: Settings, handover: GatewayConfig, scratch: Path) -> None:
        self._settings = settings
        self._handover = handover
        self._plan = scratch / "plan.json"
        self._log = scratch / "engine.log"
        self._child: subprocess.Popen[bytes] | None = None
        self.status = "not started"

    def start(self, enter: Callable[[str], None], rearm: Callable[[], None]) -> None:
        """Start the server as its own process, which writes to `engine.log`."""
        from hybridserve.engine.vllm_middleware import PLAN_FILE

        enter("starting the engine")
        server = self._settings.server
        handover = self._log.with_name("handover.json")
        handover.write_text(self._handover.to_json(), encoding="utf-8")
        words = command_line(engine_args(self._settings), server.host, server.port)[2:]
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", *words]
        command += ["--middleware", DOOR, "--disable-uvicorn-access-log", *inline_worker(self._settings)]
        ours = engine_environment(self._settings)
        environment = {**ours, **os.environ, SETTINGS_JSON: str(handover), PLAN_FILE: str(self._plan)}
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C in a terminal is for us, who then ask for a drain.
            self._child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.status = "starting"

    def running(self) -> bool:
        """The plan is written when the engine is up."""
        assert self._child is not None
        if self._child.poll() is not None:
            self.status = f"ended with {self._child.returncode}"
            reason = root_cause([self._log.read_text(errors="replace")])
            raise EnvironmentFault("engine", reason, f"see {self._log}")
        if not self._plan.exists():
            return False
        self.status = "running"
        return True

    def cache_line(self) -> str:
        """From the plan that the engine was held against."""
        line: str = json.loads(self._plan.read_text(encoding="utf-8"))["line"]
        return line

    def stop(self) -> None:
        """SIGTERM: the door drains, then ends the server."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(self._settings.server.drain_timeout_s + _END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()


def inline_worker(settings: Settings) -> list[str]:
    """Flags for `vllm serve`: on one CPU the worker shares the core's process, as it does under Ray.

    vLLM's own choice there, two processes, wait for each other by yielding the processor without end: under Linux 6.18
    with two cores every other process stood still for ten seconds while one answer was written.
    """
    engine = settings.engine
    if settings.accelerator.name != "cpu" or engine.tensor_parallel_size * engine.pipeline_parallel_size > 1:
        return []
    return ["--distributed-executor-backend", EXECUTOR, "--additional-config", json.dumps({ENVIRONMENT: {}})]
