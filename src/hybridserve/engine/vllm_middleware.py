"""One engine without Ray: vLLM's own server with the gateway mounted in it.

`vllm serve MODEL --middleware hybridserve.engine.vllm_middleware.VLLMMiddleware`, with the deployment spec or the
settings in ``HYBRIDSERVE_SETTINGS_JSON``. It serves the same API as under Ray Serve, with one replica: no scaling, and
no replacement of a dead engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from hybridserve.deployment.spec import spec_from_environ
from hybridserve.engine.monitor import EngineMonitor, warm_up
from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.state import GatewayState
from hybridserve.gateway.types import App, Receive, Scope, Send
from hybridserve.observability.logging import configure
from hybridserve.observability.metrics import GatewayMetrics

logger = logging.getLogger("hybridserve.engine")

# Names a file that receives the body of /plan when the engine has started, for the process that started this one.
PLAN_FILE = "HYBRIDSERVE_PLAN_FILE"


class VLLMMiddleware(GatewayMiddleware):
    """The gateway, which here also warms the engine up, checks the plan, and drains at SIGTERM."""

    def __init__(self, app: App) -> None:
        spec = spec_from_environ()
        if spec.plan is None:
            from hybridserve.deployment.resolve import resolve_deployment

            spec = resolve_deployment(spec.settings, datetime.now(UTC).date())
        self._spec = spec
        configure(spec.settings.telemetry)
        super().__init__(app, state=GatewayState(spec, metrics=GatewayMetrics(REGISTRY)))
        self._stop: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                await self._begin(scope["app"].state.engine_client)
            except Exception:
                # Uvicorn takes an exception here for an app without lifespan events, and would serve.
                logger.exception("start_failed")
                os._exit(1)
        await super().__call__(scope, receive, send)

    async def _begin(self, client: Any) -> None:
        await warm_up(client)
        monitor = self._monitor = EngineMonitor(client, self._spec, "single", "single")
        monitor.attach(self.state)
        monitor.watch(exit_when_dead=False)
        if PLAN_FILE in os.environ:
            Path(os.environ[PLAN_FILE]).write_text(json.dumps(monitor.plan), encoding="utf-8")
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._drain_and_stop)

    def _drain_and_stop(self) -> None:
        """Replaces vLLM's handler, which ends the engine under open streams. A second SIGTERM stops at once."""
        if self._stop is not None:
            self._end()
            return

        async def stop() -> None:
            await self.state.lifecycle.drained(self._spec.settings.server.drain_timeout_s)
            self._end()

        self.state.lifecycle.drain()
        self._stop = asyncio.get_running_loop().create_task(stop())

    def _end(self) -> None:
        """SIGINT makes vLLM end the engine and then the server."""
        self._monitor.stop_watching()
        os.kill(os.getpid(), signal.SIGINT)
