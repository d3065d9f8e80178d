"""vLLM's own server in one child process, with the gateway mounted in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.engine.preload import inline_worker_flags
from hybridserve.errors import EnvironmentFault
from hybridserve.planning.render import command_line
from hybridserve.runtime.root_cause import root_cause
from hybridserve.settings.load import SETTINGS_JSON

MIDDLEWARE = "hybridserve.engine.vllm_middleware.VLLMMiddleware"
# Time for the engine to end after its last stream.
_EXIT_TIMEOUT_S = 30.0


class StandaloneBackend:
    """One `vllm serve`."""

    data_path = "single"

    def __init__(self, spec: DeploymentSpec, scratch: Path) -> None:
        self._spec = spec
        self._plan = scratch / "plan.json"
        self._log = scratch / "engine.log"
        self._child: subprocess.Popen[bytes] | None = None
        self.status = "not started"

    def start(self, enter: Callable[[str], None], rearm: Callable[[], None]) -> None:
        """Start the server as a child process, which writes to `engine.log`."""
        from hybridserve.engine.vllm_middleware import PLAN_FILE

        enter("starting the engine")
        spec, server = self._spec, self._spec.settings.server
        file = self._log.with_name("deployment.json")
        file.write_text(spec.to_json(), encoding="utf-8")
        words = command_line(spec.engine_args, server.host, server.port)[2:]
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", *words]
        command += ["--middleware", MIDDLEWARE, "--disable-uvicorn-access-log", *inline_worker_flags(spec.settings)]
        environment = {**spec.engine_environment, **os.environ, SETTINGS_JSON: str(file), PLAN_FILE: str(self._plan)}
        with self._log.open("wb") as log:
            # In a new session: Ctrl-C in a terminal reaches only this process, which then drains the server.
            self._child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.status = "starting"

    def running(self) -> bool:
        """The server writes the plan file when its engine is up."""
        assert self._child is not None
        if self._child.poll() is not None:
            self.status = f"exited with code {self._child.returncode}"
            reason = root_cause([self._log.read_text(errors="replace")])
            raise EnvironmentFault("engine", reason, f"see {self._log}")
        if not self._plan.exists():
            return False
        self.status = "running"
        return True

    def cache_line(self) -> str:
        """From the file with the body of ``GET /plan``."""
        line: str = json.loads(self._plan.read_text(encoding="utf-8"))["line"]
        return line

    def stop(self) -> None:
        """SIGTERM: the gateway drains, then ends the server."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(self._spec.settings.server.drain_timeout_s + _EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
