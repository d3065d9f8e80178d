"""The Ray Serve replica: Ray's own LLM server around vLLM, with the parts that a hybrid deployment needs on top.

Everything that touches a private name of Ray Serve LLM 2.60 or vLLM 0.29 stands in this file and in `executor`.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from prometheus_client import REGISTRY
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from hybridserve.engine.metrics_endpoint import export_replica
from hybridserve.engine.patches import preload
from hybridserve.engine.patches.inline_executor import InlineExecutor
from hybridserve.engine.patches.preload import ENVIRONMENT
from hybridserve.engine.processes import kill_self_and_descendants
from hybridserve.engine.startup import attach_stats_logger, verify_plan, warm_up
from hybridserve.engine.stats import EngineStatsLogger
from hybridserve.engine.watchdog import wait_until_unhealthy
from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.config import GatewayConfig
from hybridserve.gateway.state import GatewayState
from hybridserve.observability.logging import set_level
from hybridserve.observability.metrics import GatewayMetrics
from hybridserve.planning.render import llm_config
from hybridserve.planning.resolve import ResolvedPlan, engine_args, plan_settings
from hybridserve.settings.live import with_live_settings


class LocalWeights(CallbackBase):
    """Skips Ray's download task: it starts one more worker, imports vLLM there and finds the folder complete."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class Engine(VLLMEngine):
    """vLLM's engine as Ray starts it; on one CPU the core starts early and the worker shares its process."""

    begun: ClassVar[dict[str, str] | None] = None
    """Environment of the fork server, where one was started for the core."""

    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        arguments = (vllm_engine_args, vllm_engine_config, placement_group)
        if self.begun is None:
            return super()._start_async_llm_engine(*arguments)
        vllm_engine_config.parallel_config.distributed_executor_backend = InlineExecutor
        vllm_engine_config.additional_config[ENVIRONMENT] = preload.changed_since(self.begun)
        with preload.core_from_fork_server():
            return super()._start_async_llm_engine(*arguments)


class HybridServer(LLMServer):
    """One replica: an engine, vLLM's own OpenAI application over it, and the control layer around that."""

    handover: GatewayConfig
    planned: ResolvedPlan
    signals: EngineStatsLogger
    plan: dict[str, Any]
    """Body of ``GET /plan``; there once the application has been built."""

    async def _start_engine(self) -> None:
        """Start the engine without Ray's telemetry actor, warm it up, then watch it."""
        await self.engine.start()
        await warm_up(self.engine._engine_client)
        self.signals = attach_stats_logger(self.engine._engine_client, self.handover, self.planned)
        self._watchdog = asyncio.create_task(self._die_with_the_engine())

    async def _die_with_the_engine(self) -> None:
        """End this process when its engine is lost: Serve replaces it, and the router stops at once to ask it."""
        await wait_until_unhealthy(self._errored, self.signals, self.handover.settings.server.stall_timeout_s)
        kill_self_and_descendants(1)

    def _errored(self) -> bool:
        return bool(self.engine._engine_client.errored)

    async def drain(self, timeout_s: float) -> bool:
        """Take no new generations, and wait for those that run; False when the time is over."""
        self._gateway.lifecycle.drain()
        return await self._gateway.lifecycle.drained(timeout_s)

    def apply_live_settings(self, changes: dict[str, Any]) -> None:
        """Take over changed limits, reasoning defaults and log level; requests that run keep what they began with.

        Raises:
            ConfigError: as `with_live_settings`.
        """
        settings = with_live_settings(self.handover.settings, changes)
        set_level(settings.telemetry)
        self._gateway.apply(settings)

    async def __serve_build_asgi_app__(self) -> Any:
        """vLLM's own application behind the control layer."""
        metrics = GatewayMetrics(REGISTRY)
        plan = verify_plan(self.engine._engine_client, self.planned)
        self.plan = plan
        export_replica(self.engine._engine_client, self.handover, self.signals, plan, "ray", _name())
        app = await super().__serve_build_asgi_app__()
        app.middleware_stack = None  # vLLM has built it already; it is built again with ours in it
        self._gateway = state = GatewayState(self.handover, metrics=metrics, sends_request_id=False)
        state.publish("/plan", plan)
        state.lifecycle.engine_lost = self._errored
        app.add_middleware(GatewayMiddleware, state=state)
        state.start(app)  # Serve sends no lifespan that would start it
        return app


def _name() -> str:
    """This replica's id in Ray Serve, as its metrics have it."""
    return str(serve.get_replica_context().replica_id.unique_id)


async def start_server(handover: GatewayConfig, begun: dict[str, str] | None) -> HybridServer:
    """A server with a running engine.

    Args:
        begun: environment of the fork server, from `preload.start_forkserver`; None lets vLLM start its core itself.

    Raises:
        RuntimeError: from vLLM, with its own reason.
    """
    settings = handover.settings
    planned = plan_settings(settings)
    config = llm_config(settings, engine_args(settings, planned))
    # The engine's own /metrics on the replica; Ray's wrapper around it drops families and falsifies histogram sums.
    config["log_engine_metrics"] = False
    if settings.accelerator.name == "cpu":
        config["callback_config"] = {"callback_class": LocalWeights}
    Engine.begun = begun
    server: HybridServer = HybridServer.sync_init(LLMConfig(**config), engine_cls=Engine)
    server.handover, server.planned = handover, planned
    await server.start()
    return server
