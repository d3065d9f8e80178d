"""The Ray Serve application: one deployment, whose HTTP application is vLLM's own.

Requests go proxy -> replica. Ray's OpenAI ingress deployment is left out: it is one more process that imports vLLM, it
holds streams back for 50 ms, and it serves 9 of the engine's routes.

This module must stay light. Ray Serve LLM imports torch and vLLM, 10 s of processor time; here only the replica does
that, while the process that deploys goes on.
"""

from __future__ import annotations

import os
from datetime import date
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.deployment import Application

from hybridserve.catalog.accelerators import accelerator
from hybridserve.engine.patches import preload
from hybridserve.engine.spec import replica_capacity
from hybridserve.gateway.config import from_environ
from hybridserve.gateway.state import served_name
from hybridserve.observability.logging import configure, preserve_ray_serve_log
from hybridserve.planning.resolve import engine_environment
from hybridserve.runtime.compliance_gate import enforce_compliance
from hybridserve.runtime.ray_autoscaling import autoscaling_options
from hybridserve.settings import Settings
from hybridserve.settings.load import SETTINGS_JSON
from hybridserve.settings.telemetry import TelemetrySection

APPLICATION = "hybridserve"
DEPLOYMENT = "engine"


@serve.ingress()
class Replica:
    """What Ray Serve holds: the real server, imported and started when the replica is."""

    async def __init__(self, handover: str) -> None:  # type: ignore[misc]
        known = from_environ({SETTINGS_JSON: handover})
        configure(known.settings.telemetry)
        engine = known.settings.engine
        devices = engine.tensor_parallel_size * engine.pipeline_parallel_size
        for name, value in engine_environment(known.settings).items():
            os.environ.setdefault(name, value)
        one_cpu = known.settings.accelerator.name == "cpu" and devices == 1
        begun = preload.start_forkserver() if one_cpu else None

        with preserve_ray_serve_log():
            from hybridserve.engine.ray_replica import start_server  # torch and vLLM: after the fork server has begun

            self._server = await start_server(known, begun)

    async def __serve_build_asgi_app__(self) -> Any:
        return await self._server.__serve_build_asgi_app__()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called by Ray Serve with the deployment's `user_config`, after the start and at each change of it.

        Raises:
            ConfigError: it holds a setting that needs a restart, or a value that is not valid.
        """
        self._server.apply_live_settings(user_config)

    def cache_line(self) -> str:
        """The engine's own statement of its cache, for the process that deployed it."""
        line: str = self._server.plan["line"]
        return line

    async def drain(self, timeout_s: float) -> bool:
        """Take no new generations, and wait for those that run; False when the time is over."""
        drained: bool = await self._server.drain(timeout_s)
        return drained

    async def check_health(self) -> None:
        """Asked by Serve's controller every few seconds."""
        await self._server.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Serve as often, for the scaling policy; numbers only."""
        return self._server.signals.numbers()


def build_app(args: dict[str, Any]) -> Application:
    """The application for `serve run`, `serveConfigV2` and `hybridserve serve`.

    The gate stands here: a deployment that fails its profile's checks is refused before any replica is started, and the
    version that runs goes on.

    Args:
        args: ``{"settings": {...}}``, the settings tree as plain data; and optionally ``"start_attempts"``, how often
            Serve starts a first replica that fails before it gives the deployment up (default 1).

    Raises:
        ComplianceError: the production profile has a failed or unknown finding.
    """
    settings = Settings.model_validate(args["settings"])
    handover = enforce_compliance(settings, date.today())
    options = deployment_options(settings) | {"max_constructor_retry_count": int(args.get("start_attempts", 1))}
    return serve.deployment(Replica, **options).bind(handover.to_json())


def ray_logging(section: TelemetrySection) -> dict[str, Any]:
    """Ray Serve's own log files; replicas take it from their deployment alone, whatever Serve was started with.

    The controller says on level info what the scaling law decided.
    """
    return {
        "encoding": section.log_format.upper(),
        "log_level": section.log_level.upper(),
        "enable_access_log": section.log_requests,
    }


def deployment_options(settings: Settings) -> dict[str, Any]:
    """Ray Serve's options for the one deployment.

    The bundles are those of Ray Serve LLM's own builder (one device each, the replica's CPU in the first), without
    importing it: a test holds the two against each other.
    """
    device = accelerator(settings.accelerator.name)
    count = settings.engine.tensor_parallel_size * settings.engine.pipeline_parallel_size
    worker = {"CPU": 1.0} if device.platform == "cpu" else {"GPU": 1.0}
    if device.ray_accelerator_type is not None:
        worker[f"accelerator_type:{device.ray_accelerator_type}"] = 0.001
    bundles = [dict(worker) for _ in range(count)]
    bundles[0]["CPU"] = bundles[0].get("CPU", 0.0) + 1.0
    return {
        "name": DEPLOYMENT,
        "max_ongoing_requests": 100_000,
        "graceful_shutdown_timeout_s": settings.server.drain_timeout_s,
        "logging_config": ray_logging(settings.telemetry),
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        "autoscaling_config": AutoscalingConfig(
            **autoscaling_options(
                settings.scaling, replica_capacity(settings), settings.telemetry, served_name(settings)
            )
        ),
        "placement_group_bundles": bundles,
        "placement_group_strategy": "PACK",
    }
