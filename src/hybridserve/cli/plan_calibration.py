"""`hybridserve plan --calibration`: pools that earlier starts reported, or step times for the cost of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridserve import yamlio
from hybridserve.errors import ConfigError
from hybridserve.planning.cost import TokenSeconds, cost_data, cost_of
from hybridserve.planning.deployment import DeploymentPlan
from hybridserve.planning.memory.profile import MemoryProfile, read_memory_profile
from hybridserve.planning.workload import Workload
from hybridserve.simulator.service_times import ServiceTimes, load_service_times


def read_calibration(name: str) -> MemoryProfile | ServiceTimes:
    """The file, or the packaged calibration of the simulator with that name.

    Raises:
        ConfigError: it cannot be read, or is neither.
    """
    path = Path(name)
    if not path.is_file():
        return load_service_times(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--calibration", f"{name} cannot be read: {error}", "give a text file") from None
    tree = yamlio.parse(text, name)
    return load_service_times(name) if isinstance(tree, dict) and "step" in tree else read_memory_profile(text, name)


def calibrated_cost(
    plan: DeploymentPlan, workload: Workload, prices: Mapping[str, float], times: ServiceTimes
) -> dict[str, Any] | None:
    """The cost where prompts are computed in the steps of a full engine, for ``--json``; None without a price.

    Raises:
        ConfigError: the step times are those of a model with other blocks.
    """
    times.require_blocks(plan.layout.block_size, plan.layout.attention_groups)
    step, sequences = times.step, min(plan.running(workload.p95), times.engine.max_num_seqs)
    context = workload.prompt_p50 + workload.output_p50 / 2
    seconds = TokenSeconds(
        step.per_prompt_token_s, step.seconds(sequences, sequences * context) / sequences, step.per_context_token_s
    )
    cost = cost_data(cost_of(plan, workload, prices, seconds, times.kind))
    return cost and cost | {"sequences": sequences, "calibration": times.name}
