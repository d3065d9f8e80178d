"""One engine without Ray: vLLM's own server with the control layer mounted in it.

`vllm serve MODEL --middleware hybridserve.engine.vllm_middleware.Door`, with the handover in the environment. It
answers as under Ray Serve. What takes several processes is missing: replicas, scaling, replacement of a dead engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

from hybridserve.engine.metrics_endpoint import export_replica
from hybridserve.engine.processes import end_at_once
from hybridserve.engine.startup import hold_against_plan, listen, warm_up
from hybridserve.engine.stats import EngineSignals
from hybridserve.engine.watchdog import until_lost
from hybridserve.gateway import ControlMiddleware
from hybridserve.gateway.config import from_environ
from hybridserve.gateway.metrics import SPECS
from hybridserve.gateway.state import Control
from hybridserve.gateway.types import App, Receive, Scope, Send
from hybridserve.observability.logging import configure
from hybridserve.observability.sink import PrometheusMetrics
from hybridserve.planning.resolve import plan_settings

logger = logging.getLogger("hybridserve.engine")

# Names a file that gets the body of /plan once the engine has started, for the process that started it.
PLAN_FILE = "HYBRIDSERVE_PLAN_FILE"


class Door(ControlMiddleware):
    """The control layer, which here also holds the engine against its plan, warms it up, and drains at SIGTERM."""

    def __init__(self, app: App) -> None:
        self._handover = from_environ()
        configure(self._handover.settings.telemetry)
        self._metrics = PrometheusMetrics(SPECS)
        super().__init__(app, control=Control(self._handover, metrics=self._metrics))
        self._stop: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                await self._begin(scope["app"].state.engine_client)
            except Exception:
                # Uvicorn takes an exception here for an app without lifespan, and would serve.
                logger.exception("event=start_failed")
                os._exit(1)
        await super().__call__(scope, receive, send)

    async def _begin(self, client: Any) -> None:
        planned = plan_settings(self._handover.settings)
        await warm_up(client)
        signals = listen(client, self._handover, planned)
        plan = hold_against_plan(client, planned)
        export_replica(client, self._handover, signals, plan, "single", "single")
        self.control.publish("/plan", plan)
        self._watchdog = asyncio.create_task(self._die_with_the_engine(client, signals))
        if PLAN_FILE in os.environ:
            Path(os.environ[PLAN_FILE]).write_text(json.dumps(plan), encoding="utf-8")
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._drain_and_stop)

    async def _die_with_the_engine(self, client: Any, signals: EngineSignals) -> None:
        """A stalled engine ends its server, for whoever restarts it. A dead one is vLLM's own business."""
        await until_lost(lambda: bool(client.errored), signals, self._handover.settings.server.stall_timeout_s)
        if not client.errored:
            end_at_once(1)

    def _drain_and_stop(self) -> None:
        """In place of vLLM's handler, which ends the engine under open streams. A second SIGTERM waits no longer."""
        if self._stop is not None:
            os.kill(os.getpid(), signal.SIGINT)
            return

        async def stop() -> None:
            await self.control.drained(self._handover.settings.server.drain_timeout_s)
            os.kill(os.getpid(), signal.SIGINT)

        self.control.drain()
        self._stop = asyncio.get_running_loop().create_task(stop())
