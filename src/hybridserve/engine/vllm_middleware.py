"""One engine without Ray: vLLM's own server with the control layer mounted in it.

`vllm serve MODEL --middleware hybridserve.engine.vllm_middleware.VLLMMiddleware`, with the gateway configuration in
the environment. It answers as under Ray Serve, but has one replica: no scaling and no replacement of a dead engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from hybridserve.engine.metrics_endpoint import export_replica
from hybridserve.engine.processes import kill_self_and_descendants
from hybridserve.engine.startup import attach_stats_logger, verify_plan, warm_up
from hybridserve.engine.stats import EngineStatsLogger
from hybridserve.engine.watchdog import wait_until_unhealthy
from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.config import from_environ
from hybridserve.gateway.state import GatewayState
from hybridserve.gateway.types import App, Receive, Scope, Send
from hybridserve.observability.logging import configure
from hybridserve.observability.metrics import GatewayMetrics
from hybridserve.planning.resolve import plan_settings

logger = logging.getLogger("hybridserve.engine")

# Names a file that gets the body of /plan once the engine has started, for the process that started it.
PLAN_FILE = "HYBRIDSERVE_PLAN_FILE"


class VLLMMiddleware(GatewayMiddleware):
    """The control layer, which here also holds the engine against its plan, warms it up, and drains at SIGTERM."""

    def __init__(self, app: App) -> None:
        self._handover = from_environ()
        configure(self._handover.settings.telemetry)
        self._metrics = GatewayMetrics(REGISTRY)
        super().__init__(app, state=GatewayState(self._handover, metrics=self._metrics))
        self._stop: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                await self._begin(scope["app"].state.engine_client)
            except Exception:
                # Uvicorn takes an exception here for an app without lifespan, and would serve.
                logger.exception("start_failed")
                os._exit(1)
        await super().__call__(scope, receive, send)

    async def _begin(self, client: Any) -> None:
        planned = plan_settings(self._handover.settings)
        await warm_up(client)
        signals = attach_stats_logger(client, self._handover, planned)
        plan = verify_plan(client, planned)
        export_replica(client, self._handover, signals, plan, "single", "single")
        self.state.publish("/plan", plan)
        self._watchdog = asyncio.create_task(self._die_with_the_engine(client, signals))
        if PLAN_FILE in os.environ:
            Path(os.environ[PLAN_FILE]).write_text(json.dumps(plan), encoding="utf-8")
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._drain_and_stop)

    async def _die_with_the_engine(self, client: Any, signals: EngineStatsLogger) -> None:
        """A stalled engine ends its server, for whoever restarts it. A dead one is vLLM's own business."""
        await wait_until_unhealthy(
            lambda: bool(client.errored), signals, self._handover.settings.server.stall_timeout_s
        )
        if not client.errored:
            kill_self_and_descendants(1)

    def _drain_and_stop(self) -> None:
        """In place of vLLM's handler, which ends the engine under open streams. A second SIGTERM waits no longer."""
        if self._stop is not None:
            os.kill(os.getpid(), signal.SIGINT)
            return

        async def stop() -> None:
            await self.state.lifecycle.drained(self._handover.settings.server.drain_timeout_s)
            os.kill(os.getpid(), signal.SIGINT)

        self.state.lifecycle.drain()
        self._stop = asyncio.get_running_loop().create_task(stop())
