"""Starts a Ray cluster on this machine, for this service alone, with one Serve application."""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.engine.patches.ray import dead_head_processes
from hybridserve.errors import EnvironmentFault, HybridServeError
from hybridserve.runtime.ingress import Ingress, ray_environment
from hybridserve.runtime.preflight import RAY_OBJECT_STORE_BYTES
from hybridserve.runtime.root_cause import root_cause

PROXY_LATE = "Ray Serve did not start: its proxy did not answer in time"
# Ray Serve's controller ends a proxy that is not ready within RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S.
_PROXY_ENDED = re.compile(r"class_name: (HAProxyManager|ProxyActor)\b.*\bkilled by `ray\.kill`", re.DOTALL)
# What only Ray's own logs explain.
_RAY_FIELDS = re.compile(r"\b(actor_id|pid|name|namespace|ip): \S+ ?")


class LocalRayBackend:
    """A Ray cluster of one node with one Serve application."""

    status = "NOT_STARTED"

    def __init__(self, path: Ingress, spec: DeploymentSpec, scratch: Path) -> None:
        self.data_path: str = path
        self._path = path
        self._spec = spec
        self._scratch = scratch
        self._ran = False

    def start(self, enter: Callable[[str], None], rearm: Callable[[], None]) -> None:
        """Start Ray and submit the application."""
        settings = self._spec.settings
        wrapper = Path(sys.executable).with_name("hybridserve-haproxy")
        os.environ |= ray_environment(self._path, settings, str(wrapper), self._scratch / "h")
        _require_token(self._scratch / "ray-token")
        enter("starting Ray")
        import ray
        from ray import serve as ray_serve
        from ray.serve import RunTarget

        from hybridserve.runtime.ray_app import APPLICATION, application, ray_logging

        for name in ("ray", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with one_error("Ray", self._scratch):
            ray.init(
                num_cpus=max(os.cpu_count() or 1, settings.scaling.max_replicas * (self._spec.devices + 1) + 1),
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=RAY_OBJECT_STORE_BYTES,
                # Ray makes its folder readable to every user of the machine; this parent folder is private.
                _temp_dir=str(self._scratch / "r"),
            )
        rearm()  # ray.init has installed its own handler
        enter("starting Ray Serve")
        with one_error("Ray Serve", self._scratch):
            ray_serve.start(
                http_options={"host": settings.server.host, "port": settings.server.port},
                logging_config=ray_logging(settings.telemetry),
            )
        enter("starting the engine")
        with one_error("Ray Serve", self._scratch):
            target = RunTarget(target=application(self._spec), name=APPLICATION, route_prefix="/")
            wait = {"wait_for_ingress_deployment_creation": False, "wait_for_applications_running": False}
            ray_serve.run_many([target], **wait)

    def running(self) -> bool:
        """Serve's own status. Serve replaces a dead replica, but nothing replaces Ray.

        Raises:
            EnvironmentFault: Ray's own processes, or an engine that never ran, died.
        """
        if dead := dead_head_processes():
            raise EnvironmentFault("ray", f"Ray's {' and '.join(dead)} died", f"see the logs in {self._scratch}")
        state = self._state()
        self.status = str(state.status.value) if state else "NOT_STARTED"
        if self._ran:
            # Serve replaces a failed replica itself; it does not restore an application that is gone.
            return self.status not in ("NOT_STARTED", "DEPLOY_FAILED")
        if self.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            # The engine core is a separate process: its reason is in the replica's log, not in Serve's message.
            logs = [log.read_text(errors="replace") for log in self._scratch.glob("r/session_latest/logs/worker-*.err")]
            messages = [deployment.message for deployment in state.deployments.values()]
            raise EnvironmentFault("engine", root_cause([*logs, *messages]), f"see the logs in {self._scratch}")
        self._ran = self.status == "RUNNING"
        return self._ran

    def cache_line(self) -> str:
        """Requested through Ray: over HTTP it would need an API key."""
        line: str = self._handle().cache_line.remote().result(timeout_s=60)
        return line

    def stop(self) -> None:
        """Drain every replica first: Serve's own shutdown ends its proxies at once, and open streams with them."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        from ray import serve as ray_serve

        # Ray prints a line for every actor that it ends, between the last lines of this command.
        with (self._scratch / "shutdown.log").open("w") as log, redirect_stderr(log), redirect_stdout(log):
            drain_s = self._spec.settings.server.drain_timeout_s
            try:
                if self._ran:
                    self._handle().broadcast("drain", drain_s).results(timeout_s=drain_s + 5)
                if dead_head_processes():
                    return  # ray.shutdown would wait a minute for its head and then end this process
                ray_serve.shutdown()
            except Exception:  # Serve itself may have failed; the processes must end all the same.
                traceback.print_exc()
            ray.shutdown()

    @staticmethod
    def _handle() -> Any:
        from ray import serve as ray_serve

        from hybridserve.runtime.ray_app import APPLICATION

        return ray_serve.get_app_handle(APPLICATION)

    @staticmethod
    def _state() -> Any:
        from ray import serve as ray_serve

        from hybridserve.runtime.ray_app import APPLICATION

        return ray_serve.status().applications.get(APPLICATION)


@contextmanager
def one_error(what: str, scratch: Path) -> Iterator[None]:
    """Turn whatever Ray raises while it starts (timeouts are a bare Exception) into one error.

    Raises:
        EnvironmentFault: what happened, in one line. Ray's own text is in `start.log`.
    """
    try:
        yield
    except HybridServeError:
        raise
    except Exception as error:
        (scratch / "start.log").write_text(traceback.format_exc(), encoding="utf-8")
        fix = f"on a busy machine start again; see the logs in {scratch}"
        raise EnvironmentFault("ray", _in_plain_words(what, error), fix) from None


def _in_plain_words(what: str, error: Exception) -> str:
    text = str(error)
    if _PROXY_ENDED.search(text) or "proxies not available after" in text.lower():
        return PROXY_LATE
    said = textwrap.shorten(_RAY_FIELDS.sub("", " ".join(text.split())), 300, placeholder=" ...")
    return f"{what} did not start: {said or type(error).__name__}"


def _require_token(file: Path) -> None:
    """Make Ray require a token, which is deleted with this service: its ports allow running code in the cluster.

    Ray reads these variables when it is imported, in every process. A mode that the user has set is kept.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    file.touch(mode=0o600)
    file.write_text(secrets.token_urlsafe(32), encoding="ascii")
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
