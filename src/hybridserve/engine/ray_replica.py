"""The server of a Ray Serve replica: Ray's own LLM server around vLLM, with the gateway in front of the application."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import REGISTRY
from ray import serve
from ray.serve.llm import LLMConfig

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.engine.monitor import EngineMonitor, warm_up
from hybridserve.engine.patches.ray_llm import LocalWeights, PatchedLLMServer, PreloadedEngine
from hybridserve.engine.ray_limits import RayLedger
from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.state import GatewayState
from hybridserve.observability.logging import set_level
from hybridserve.observability.metrics import GatewayMetrics
from hybridserve.planning.render import llm_config
from hybridserve.settings.live import with_live_settings

# A replica that failed its numeric check stays this long, so that Prometheus reads its verdict before the process ends.
FAILED_HOLD_S = 60.0


class HybridServer(PatchedLLMServer):
    """One replica: an engine, vLLM's own OpenAI application over it, and the gateway around that."""

    spec: DeploymentSpec
    monitor: EngineMonitor

    async def engine_started(self) -> None:
        """Warm the engine up and begin to watch it: Serve replaces this process when it ends."""
        await warm_up(self.client)
        replica = str(serve.get_replica_context().replica_id.unique_id)  # as Ray Serve's own metrics name it
        self.monitor = EngineMonitor(self.client, self.spec, "ray", replica)
        self.monitor.watch(exit_when_dead=True)

    async def check_health(self) -> None:
        """Healthy once the engine has passed its numeric check: Serve calls this at the end of the replica's start.

        Raises:
            RuntimeError: the check failed, so that Serve replaces this replica and does not use it.
        """
        verify = self._gateway.readiness.verify
        if verify is not None:
            await verify.finished.wait()
            if verify.fault is not None:
                await asyncio.sleep(FAILED_HOLD_S)
                raise RuntimeError(f"numeric check of the engine: {verify.fault}")
        await super().check_health()

    async def drain(self, timeout_s: float) -> bool:
        """Reject new generations and wait for the running ones; False when the time is over."""
        self._gateway.lifecycle.drain()
        return await self._gateway.lifecycle.drained(timeout_s)

    def apply_live_settings(self, changes: dict[str, Any]) -> None:
        """Apply changed limits, reasoning defaults and log level; running requests keep the settings they began with.

        Raises:
            ConfigError: as `with_live_settings`.
        """
        settings = with_live_settings(self.spec.settings, changes)
        set_level(settings.telemetry)
        self._gateway.apply(settings)

    async def __serve_build_asgi_app__(self) -> Any:
        """vLLM's own application behind the gateway."""
        app = await self.vllm_app()
        self._gateway = state = GatewayState(
            self.spec, metrics=GatewayMetrics(REGISTRY), ledger=self._ledger(), sends_request_id=False
        )
        self.monitor.attach(state)
        state.lifecycle.engine_lost = self.monitor.errored
        app.add_middleware(GatewayMiddleware, state=state)
        state.start(app)  # Serve sends no lifespan event that would start it
        return app

    def _ledger(self) -> RayLedger | None:
        """Where the replicas share limits; None for a single replica, or where the settings name another ledger."""
        settings = self.spec.settings
        if settings.scaling.max_replicas == 1 or settings.access.limits_url is not None:
            return None
        return RayLedger(serve.get_replica_context().app_name)


async def start_server(spec: DeploymentSpec, forkserver_environment: dict[str, str] | None) -> HybridServer:
    """A server with a running engine.

    Args:
        forkserver_environment: from `preload.start_forkserver`; None lets vLLM spawn its core and workers.

    Raises:
        RuntimeError: from vLLM, with its own reason.
    """
    config = llm_config(spec.settings, spec.engine_args)
    # The replica serves the engine's own /metrics; Ray's wrapper drops families and falsifies histogram sums.
    config["log_engine_metrics"] = False
    if spec.settings.accelerator.name == "cpu":
        config["callback_config"] = {"callback_class": LocalWeights}
    PreloadedEngine.forkserver_environment = forkserver_environment
    server: HybridServer = HybridServer.sync_init(LLMConfig(**config), engine_cls=PreloadedEngine)
    server.spec = spec
    await server.start()
    return server
