"""What is done with an engine that has just started, whoever started it: Ray Serve's replica, or `vllm serve`."""

from __future__ import annotations

import logging
from typing import Any

from hybridserve.engine.cache_info import reported_cache
from hybridserve.engine.spec import replica_capacity
from hybridserve.engine.stats import EngineSignals
from hybridserve.gateway.config import Handover
from hybridserve.planning.resolve import Planned
from hybridserve.engine.plan_check import plan_document, remember_pool

logger = logging.getLogger(__name__)


async def warm_up(client: Any) -> None:
    """Run one prompt on vLLM's `AsyncLLM`, so that the first user does not wait for kernels to be compiled."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    async for _ in client.generate({"prompt_token_ids": [0, 0, 0, 0]}, params, "hybridserve-warm-up"):
        pass
    await client.reset_prefix_cache()


def listen(client: Any, handover: Handover, planned: Planned) -> EngineSignals:
    """Signals of this engine from now on."""
    signals = EngineSignals(replica_capacity(handover.settings, planned), client.get_num_unfinished_requests)
    client.logger_manager.stat_loggers.append(signals)
    return signals


def hold_against_plan(client: Any, planned: Planned) -> dict[str, Any]:
    """The engine's cache beside the plan's: in the log, and as the body of ``GET /plan``."""
    reported = reported_cache(client.vllm_config)
    plan = plan_document(planned.advice.plan.cache, reported)
    for difference in plan["differences"]:
        logger.warning("the plan does not hold: %s", difference)
    remember_pool(planned, reported)
    return plan
