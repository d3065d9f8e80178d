"""Ray Serve on this machine, in processes of its own."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hybridserve.errors import EnvironmentFault
from hybridserve.runtime.ingress import Ingress, ray_environment
from hybridserve.runtime.preflight import RAY_OBJECT_STORE_BYTES
from hybridserve.runtime.root_cause import root_cause
from hybridserve.settings import Settings


class RayServeBackend:
    """A Ray cluster of one node with one Serve application."""

    status = "NOT_STARTED"

    def __init__(self, path: Ingress, settings: Settings, scratch: Path) -> None:
        self.data_path: str = path
        self._path = path
        self._settings = settings
        self._scratch = scratch
        self._ran = False

    def start(self, enter: Callable[[str], None], rearm: Callable[[], None]) -> None:
        """Start Ray and submit the application."""
        wrapper = Path(sys.executable).with_name("hybridserve-haproxy")
        os.environ |= ray_environment(self._path, self._settings, str(wrapper), self._scratch / "h")
        _ask_for_a_token(self._scratch / "ray-token")
        enter("starting Ray")
        import ray
        from ray import serve as ray_serve
        from ray.serve import RunTarget

        from hybridserve.runtime.ray_app import APPLICATION, build_app, ray_logging

        for name in ("ray", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)
        settings = self._settings
        devices = settings.engine.tensor_parallel_size * settings.engine.pipeline_parallel_size
        ray.init(
            num_cpus=max(os.cpu_count() or 1, settings.scaling.max_replicas * (devices + 1) + 1),
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=RAY_OBJECT_STORE_BYTES,
            # Ray opens its folder to every user of the machine: it gets one inside of ours, which stays closed.
            _temp_dir=str(self._scratch / "r"),
        )
        rearm()  # ray.init has put its own handler in place
        enter("starting Ray Serve")
        ray_serve.start(
            http_options={"host": settings.server.host, "port": settings.server.port},
            logging_config=ray_logging(settings.telemetry),
        )
        enter("starting the engine")
        app = build_app({"settings": settings.model_dump(mode="json")})
        target = RunTarget(target=app, name=APPLICATION, route_prefix="/")
        ray_serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    def running(self) -> bool:
        """Serve's own verdict; it replaces a dead replica by itself, but nobody replaces Ray.

        Raises:
            EnvironmentFault: Ray's own processes, or an engine that never ran, died.
        """
        if self._dead_head():
            raise EnvironmentFault(
                "ray",
                f"Ray's {' and '.join(self._dead_head())} died",
                f"see the logs in {self._scratch} and start again",
            )
        state = self._state()
        self.status = str(state.status.value) if state else "NOT_STARTED"
        if self._ran:
            # A replica that is being replaced is Serve's business; an application that is gone is not.
            return self.status not in ("NOT_STARTED", "DEPLOY_FAILED")
        if self.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            # The engine core is a process of its own: its reason is in the replica's log, not in Serve's message.
            logs = [log.read_text(errors="replace") for log in self._scratch.glob("r/session_latest/logs/worker-*.err")]
            messages = [deployment.message for deployment in state.deployments.values()]
            raise EnvironmentFault("engine", root_cause([*logs, *messages]), f"see the logs in {self._scratch}")
        self._ran = self.status == "RUNNING"
        return self._ran

    def cache_line(self) -> str:
        """Asked inside of Ray: at the door it takes a key."""
        from ray import serve as ray_serve

        from hybridserve.runtime.ray_app import APPLICATION

        line: str = ray_serve.get_app_handle(APPLICATION).cache_line.remote().result(timeout_s=60)
        return line

    def stop(self) -> None:
        """Every replica drains first: Serve's own shutdown ends its proxies at once, and open streams with them."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        from ray import serve as ray_serve

        from hybridserve.runtime.ray_app import APPLICATION

        # Ray tells of every actor that it ends itself, in the middle of our last lines.
        with (self._scratch / "shutdown.log").open("w") as log, redirect_stderr(log), redirect_stdout(log):
            drain_s = self._settings.server.drain_timeout_s
            try:
                if self._ran:
                    ray_serve.get_app_handle(APPLICATION).broadcast("drain", drain_s).results(timeout_s=drain_s + 5)
                if self._dead_head():
                    return  # Ray waits a minute for its head, and then ends this very process without a word
                ray_serve.shutdown()
            except Exception:  # Serve may be the very thing that broke; the processes must end all the same.
                traceback.print_exc()
            ray.shutdown()

    @staticmethod
    def _dead_head() -> list[str]:
        """Which of the two processes without which there is no Ray are gone."""
        from ray._private import worker

        node = worker._global_node
        vital = ("gcs_server", "raylet")
        return [kind for kind, _ in node.dead_processes() if kind in vital] if node is not None else []

    @staticmethod
    def _state() -> Any:
        from ray import serve as ray_serve

        from hybridserve.runtime.ray_app import APPLICATION

        return ray_serve.status().applications.get(APPLICATION)


def _ask_for_a_token(file: Path) -> None:
    """Whoever reaches Ray's ports can run code in the cluster: they take a token, which dies with this service.

    Ray reads these variables when it is imported, in every process; a mode that the user has set stands.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    file.touch(mode=0o600)
    file.write_text(secrets.token_urlsafe(32), encoding="ascii")
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
