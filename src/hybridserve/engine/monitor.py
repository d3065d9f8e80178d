"""What a started engine gets in every mode: warm-up, statistics, plan check, metrics and a watchdog."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.engine.metrics_endpoint import export_replica
from hybridserve.engine.plan_check import read_cache_info, verify_plan
from hybridserve.engine.processes import kill_self_and_descendants
from hybridserve.engine.stats import EngineStatsLogger
from hybridserve.engine.watchdog import wait_until_unhealthy
from hybridserve.gateway.limits.late_requests import LateRequests
from hybridserve.gateway.state import GatewayState


async def warm_up(client: Any) -> None:
    """Run one short prompt on vLLM's `AsyncLLM`, so that kernels are compiled before the first request arrives."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    async for _ in client.generate({"prompt_token_ids": [0, 0, 0, 0]}, params, "hybridserve-warm-up"):
        pass
    await client.reset_prefix_cache()


class EngineMonitor:
    """Statistics, plan check and metrics of one started engine.

    Args:
        client: vLLM's `AsyncLLM`.
        replica: the replica's name in metrics.
    """

    def __init__(self, client: Any, spec: DeploymentSpec, mode: Literal["ray", "single"], replica: str) -> None:
        self._client = client
        self._scaling = spec.scaling
        self._stall_timeout_s = spec.settings.server.stall_timeout_s
        self.stats = EngineStatsLogger(spec.capacity, client.get_num_unfinished_requests, spec.settings.scaling.slo)
        client.logger_manager.stat_loggers.append(self.stats)
        self.plan = verify_plan(spec, read_cache_info(client.vllm_config))
        """Body of ``GET /plan``."""
        export_replica(client, spec, self.stats, self.plan, mode, replica)

    def attach(self, gateway: GatewayState) -> None:
        """Give the gateway in front of this engine what it shows and decides by."""
        gateway.publish("/plan", self.plan)
        gateway.token_counts = self.stats.take_size
        if self._scaling is not None and self._scaling.refuse_late:
            gateway.late_requests = LateRequests(self._scaling, self.stats.metrics, self.stats.count_refused)

    def errored(self) -> bool:
        """Whether the engine core has died."""
        return bool(self._client.errored)

    def watch(self, *, exit_when_dead: bool) -> None:
        """Start a task that ends this process when the engine stalls, so that the process is replaced.

        Args:
            exit_when_dead: also end it when the engine core has died; `vllm serve` does that itself.
        """
        self._watchdog = asyncio.create_task(self._exit_when_unhealthy(exit_when_dead))

    def stop_watching(self) -> None:
        """End the watch: the engine is about to be stopped, and its end is no error."""
        self._watchdog.cancel()

    async def _exit_when_unhealthy(self, exit_when_dead: bool) -> None:
        await wait_until_unhealthy(self.errored, self.stats, self._stall_timeout_s)
        if exit_when_dead or not self.errored():
            kill_self_and_descendants(1)
