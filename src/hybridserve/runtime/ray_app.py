"""The Ray Serve application: one deployment, whose HTTP application is vLLM's own behind the gateway.

Requests go from the proxy to the replica. Ray's OpenAI ingress deployment is left out: it is one more process that
imports vLLM, it delays streams by 50 ms, and it serves only 9 of the engine's routes.

This module must stay light. Ray Serve LLM imports torch and vLLM, 10 s of CPU time; only the replica does that, while
the process that deploys goes on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.deployment import Application

from hybridserve.catalog.accelerators import accelerator
from hybridserve.deployment.spec import DeploymentSpec, spec_from_environ
from hybridserve.engine import preload
from hybridserve.engine.patches.ray import keep_serve_log_files
from hybridserve.observability.logging import configure
from hybridserve.runtime.compliance_gate import enforce_compliance
from hybridserve.runtime.ray_autoscaling import autoscaling_options
from hybridserve.settings import Settings
from hybridserve.settings.telemetry import TelemetrySection

APPLICATION = "hybridserve"
DEPLOYMENT = "engine"
SESSION_ROUTER = "hybridserve.runtime.session_router.SessionRouter"


@serve.ingress()
class Replica:
    """The deployment's class. The server itself is imported and started in the replica.

    Args:
        spec: a `DeploymentSpec` as JSON.
    """

    async def __init__(self, spec: str) -> None:  # type: ignore[misc]
        deployment = DeploymentSpec.from_json(spec)
        configure(deployment.settings.telemetry)
        for name, value in deployment.engine_environment.items():
            os.environ.setdefault(name, value)
        environment = preload.start_forkserver() if preload.runs_on_one_cpu(deployment.settings) else None

        with keep_serve_log_files():
            from hybridserve.engine.ray_replica import start_server  # torch and vLLM: after the fork server has started

            self._server = await start_server(deployment, environment)

    async def __serve_build_asgi_app__(self) -> Any:
        return await self._server.__serve_build_asgi_app__()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called by Ray Serve with the deployment's `user_config`, after the start and at each change of it.

        Raises:
            ConfigError: it holds a setting that needs a restart, or a value that is not valid.
        """
        self._server.apply_live_settings(user_config)

    def cache_line(self) -> str:
        """The engine's report of its cache capacity."""
        line: str = self._server.monitor.plan["line"]
        return line

    async def drain(self, timeout_s: float) -> bool:
        """Reject new generations and wait for the running ones; False when the time is over."""
        drained: bool = await self._server.drain(timeout_s)
        return drained

    async def check_health(self) -> None:
        """Called by Serve's controller every few seconds."""
        await self._server.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve for the scaling policy; numbers only."""
        return self._server.monitor.stats.numbers()


def build_app(args: Mapping[str, Any]) -> Application:
    """The application for `serve run` and KubeRay's `serveConfigV2`.

    A deployment that fails its profile's checks is refused here, before any replica starts; a running version of the
    application goes on.

    Args:
        args: ``{"settings": {...}}``, the settings as plain data. Without it, ``HYBRIDSERVE_SETTINGS_JSON`` is read:
            a spec, or settings. ``"start_attempts"`` is how often Serve starts a first replica that fails before it
            gives the deployment up (default 1).

    Raises:
        ComplianceError: the profile refuses a finding.
        ConfigError, CatalogError, PlanRefused: as `resolve_deployment`.
    """
    tree = args.get("settings")
    spec = spec_from_environ() if tree is None else DeploymentSpec(settings=Settings.model_validate(tree))
    if spec.plan is None:
        from hybridserve.deployment.resolve import resolve_deployment

        spec = resolve_deployment(spec.settings, datetime.now(UTC).date())
    return application(spec, start_attempts=int(args.get("start_attempts", 1)))


def application(spec: DeploymentSpec, start_attempts: int = 1) -> Application:
    """The application of a resolved deployment.

    Raises:
        ComplianceError: the profile refuses a finding.
    """
    enforce_compliance(spec)
    options = deployment_options(spec) | {"max_constructor_retry_count": start_attempts}
    return serve.deployment(Replica, **options).bind(spec.to_json())


def ray_logging(section: TelemetrySection) -> dict[str, Any]:
    """Ray Serve's own log files. A replica takes these options from its deployment, not from `serve.start`.

    Level info includes the autoscaling decisions in the controller's log.
    """
    return {
        "encoding": section.log_format.upper(),
        "log_level": section.log_level.upper(),
        "enable_access_log": section.log_requests,
    }


def deployment_options(spec: DeploymentSpec) -> dict[str, Any]:
    """Ray Serve's options for the one deployment.

    The placement group bundles equal those of Ray Serve LLM's own builder (one device each, the replica's CPU in the
    first), without importing it; a contract test compares the two.
    """
    settings = spec.settings
    assert spec.scaling is not None  # it is resolved
    device = accelerator(settings.accelerator.name)
    worker = {"CPU": 1.0} if device.platform == "cpu" else {"GPU": 1.0}
    if device.ray_accelerator_type is not None:
        worker[f"accelerator_type:{device.ray_accelerator_type}"] = 0.001
    bundles = [dict(worker) for _ in range(spec.devices)]
    bundles[0]["CPU"] = bundles[0].get("CPU", 0.0) + 1.0
    # Ray refuses a custom router with HAProxy, which `engine.patches.haproxy` configures to keep sessions together.
    with_haproxy = os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    routing = {} if with_haproxy else {"request_router_class": SESSION_ROUTER}
    return {
        "name": DEPLOYMENT,
        "max_ongoing_requests": 100_000,
        "graceful_shutdown_timeout_s": settings.server.drain_timeout_s,
        "logging_config": ray_logging(settings.telemetry),
        "request_router_config": RequestRouterConfig(**routing),
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        "autoscaling_config": AutoscalingConfig(
            **autoscaling_options(spec.scaling, settings.telemetry, spec.served_name)
        ),
        "placement_group_bundles": bundles,
        "placement_group_strategy": "PACK",
    }
