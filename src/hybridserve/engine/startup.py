"""What is done with an engine that has just started, whoever started it: Ray Serve's replica, or `vllm serve`."""

from __future__ import annotations

import logging
from typing import Any

from hybridserve.engine.cache_info import read_cache_info
from hybridserve.engine.plan_check import plan_document, save_profiled_pool
from hybridserve.engine.spec import replica_capacity
from hybridserve.engine.stats import EngineStatsLogger
from hybridserve.gateway.config import GatewayConfig
from hybridserve.planning.resolve import ResolvedPlan

logger = logging.getLogger(__name__)


async def warm_up(client: Any) -> None:
    """Run one prompt on vLLM's `AsyncLLM`, so that the first user does not wait for kernels to be compiled."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    async for _ in client.generate({"prompt_token_ids": [0, 0, 0, 0]}, params, "hybridserve-warm-up"):
        pass
    await client.reset_prefix_cache()


def attach_stats_logger(client: Any, handover: GatewayConfig, planned: ResolvedPlan) -> EngineStatsLogger:
    """Signals of this engine from now on."""
    signals = EngineStatsLogger(replica_capacity(handover.settings, planned), client.get_num_unfinished_requests)
    client.logger_manager.stat_loggers.append(signals)
    return signals


def verify_plan(client: Any, planned: ResolvedPlan) -> dict[str, Any]:
    """The engine's cache beside the plan's: in the log, and as the body of ``GET /plan``."""
    reported = read_cache_info(client.vllm_config)
    plan = plan_document(planned.advice.plan.cache, reported)
    for difference in plan["differences"]:
        logger.warning("plan_mismatch", extra={"difference": str(difference)})
    save_profiled_pool(planned, reported)
    return plan
