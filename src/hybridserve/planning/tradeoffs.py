"""Alternatives: changes that have a cost, each planned."""

from __future__ import annotations

from hybridserve.catalog.engines import engine_table
from hybridserve.errors import PlanRefused
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.dtypes import resolve_dtypes
from hybridserve.planning.deployment import Deployment, DeploymentPlan, plan_deployment, with_cache
from hybridserve.planning.models.architecture import Mamba1, Mamba2
from hybridserve.planning.workload import Workload

# Units for partial prefix hits; a unit must divide the block size.
MATCH_UNITS = (32, 16)


@dataclass(frozen=True, slots=True)
class Alternative:
    """A change that is not recommended by default because it has a cost (`price`). Its `gain` is planned."""

    name: str
    value: int | float | str | bool
    gain: str
    price: str


def alternatives(asked: Deployment, plan: DeploymentPlan, workload: Workload) -> list[Alternative]:
    """The alternatives to a plan that gain something.

    Args:
        asked: with the user's settings alone.
    """
    found: list[Alternative | None] = []
    layout, deployment = plan.layout, plan.deployment
    aligned = deployment.arch.hybrid and layout.mode == "align"
    found.append(finer_unit(plan))
    if deployment.accelerator.platform == "cuda" and deployment.cache.kv_cache_dtype == "auto":
        price = "8-bit keys and values: check the accuracy on your task"
        found.append(_planned(plan, workload, "kv_cache_dtype", "fp8", price))
    if aligned:
        found.append(_planned(plan, workload, "enable_prefix_caching", False, "no prefix is reused"))
    table, _ = engine_table(asked.cache.engine)
    own = resolve_dtypes(asked.arch, asked.cache, table).ssm
    if deployment.arch.hybrid and own != layout.mamba_ssm_cache_dtype:
        price = f"what vLLM {table.version} takes by itself; `hybridserve check` refuses it in production"
        found.append(_planned(plan, workload, "mamba_ssm_cache_dtype", own, price))
    rounds = isinstance(deployment.arch.state, Mamba1 | Mamba2) and deployment.accelerator.rounds_stochastically
    if rounds and layout.mamba_ssm_cache_dtype == "float32":
        price = "needs --enable-mamba-cache-stochastic-rounding, or accuracy drops"
        found.append(_planned(plan, workload, "mamba_ssm_cache_dtype", "float16", price))
    if plan.budget.confidence == "estimate" and plan.low is not None:
        found.append(
            Alternative(
                "kv_cache_memory_bytes",
                plan.low.kv_bytes,
                "no profiling: the same capacity on every start, as planned",
                "this is the low end of the estimate; after a first start, use the value that the engine logged",
            )
        )
    return [option for option in found if option is not None]


def finer_unit(plan: DeploymentPlan) -> Alternative | None:
    """Hits inside a block, where they are possible and the plan has none."""
    layout = plan.layout
    unit = match_unit(layout.block_size)
    aligned = plan.deployment.arch.hybrid and layout.mode == "align"
    if not aligned or unit is None or plan.deployment.cache.prefix_match_unit is not None:
        return None
    gain = f"prefixes of {unit} tokens can be reused instead of {layout.block_size:,}"
    price = "needs hybridserve installed beside vLLM, and was not tested on this platform: verify the answers"
    return Alternative("prefix_match_unit", unit, gain, price)


def match_unit(block_size: int) -> int | None:
    """Tokens of the unit for hits inside a block of this size; None if no unit divides it."""
    return next((unit for unit in MATCH_UNITS if block_size % unit == 0), None)


def _planned(plan: DeploymentPlan, workload: Workload, name: str, value: str | bool, price: str) -> Alternative | None:
    """The alternative with its gain at the low end of the estimate, as the flags; None if it gains nothing."""
    try:
        other = plan_deployment(with_cache(plan.deployment, **{name: value})).low
    except PlanRefused:
        return None
    now = plan.low
    if now is None or other is None:
        return None
    length = min(workload.p95, now.max_model_len)
    steady = now.n_steady(length), other.n_steady(length)
    safe = now.n_safe(length), other.n_safe(length)
    counts = [(*steady, f"requests of {length:,} tokens at once")]
    counts += [(*safe, f"requests of {length:,} tokens without preemption")] if safe != steady else []
    counts += [(now.longest_context, other.longest_context, "tokens of context")]
    gains = [f"{after:,} instead of {before:,} {what}" for before, after, what in counts if after > before]
    return Alternative(name, value, ", ".join(gains), price) if gains else None
