"""A plan as plain data: what `--json` prints, and what the tables are drawn from."""

from __future__ import annotations

from typing import Any

from hybridserve.errors import CatalogError, ConfigError, PlanRefused
from hybridserve.planning.deployment import DeploymentPlan, plan_deployment
from hybridserve.planning.recommend import Flag
from hybridserve.planning.resolve import ResolvedPlan, engine_args
from hybridserve.planning.roofline import ServedModel, ThroughputBound, bound, device_peaks
from hybridserve.planning.workload import Workload


def report(planned: ResolvedPlan) -> dict[str, Any]:
    """Everything a plan says. Sizes are bytes, lengths tokens; `[low, middle, high]` are the ends of the band."""
    advice, plan = planned.advice, planned.advice.plan
    deployment, accelerator = plan.deployment, plan.deployment.accelerator
    return {
        "model": planned.model.id,
        "name": planned.model.card.name if planned.model.card else planned.model.id,
        "parameters": plan.weights.parameters,
        "accelerator": {"id": accelerator.id, "name": accelerator.name, "uncertain": _uncertain(planned)},
        "engine": deployment.cache.engine,
        "tensor_parallel_size": deployment.cache.tensor_parallel_size,
        "pipeline_parallel_size": deployment.cache.pipeline_parallel_size,
        "confidence": plan.budget.confidence,
        "verdict": plan.verdict,
        "goal": advice.goal,
        "workload": workload_data(advice.workload),
        "without_advice": _without_advice(planned),
        "memory": memory_data(plan),
        "cache": cache_data(plan),
        "capacity": capacity_data(plan, advice.workload.p95),
        "bound": _bound_data(served_bound(plan, advice.workload)),
        "flags": [_flag(flag) for flag in advice.flags],
        "options": [
            {"name": option.name, "value": option.value, "gain": option.gain, "price": option.price}
            for option in advice.alternatives
        ],
        "warnings": list(plan.warnings),
        "engine_args": _engine_args(planned),
    }


def memory_data(plan: DeploymentPlan) -> dict[str, Any]:
    """Where the memory of the fullest device goes; `total` is None for a CPU whose memory nobody has told."""
    budget = plan.budget
    return {
        "total": budget.total if plan.deployment.total_bytes else None,
        "requested": budget.requested if plan.deployment.total_bytes else None,
        "weights": budget.weights,
        "weights_source": plan.weights.how,
        "runtime": budget.runtime,
        "activation": budget.activation,
        "graphs": budget.graphs,
        "pool": budget.kv,
        "pool_source": budget.source,
        "band": budget.band,
        "profiling_cache": budget.profiling_cache,
        "startup_peak": budget.startup_peak,
    }


def cache_data(plan: DeploymentPlan) -> dict[str, Any]:
    """How the pool is cut."""
    layout = plan.layout
    return {
        "mode": layout.mode,
        "block_size": layout.block_size,
        "mamba_block_size": layout.mamba_block_size,
        "page_bytes": layout.page_bytes,
        "padding_percent": layout.padding_percent,
        "groups": [{"kind": group.kind, "layers": group.layers} for group in layout.groups],
        "padding_layers": layout.padding_layers,
        "bytes_per_block": layout.bytes_per_block,
        "kv_bytes_per_token": layout.kv_bytes_per_token,
        "state_bytes_per_sequence": layout.state_bytes_per_sequence,
        "state_blocks_budgeted": layout.state_groups * layout.state_blocks,
        "state_blocks_running": layout.state_groups * layout.running_state_blocks,
        "kv_cache_dtype": layout.kv_cache_dtype,
        "mamba_ssm_cache_dtype": layout.mamba_ssm_cache_dtype,
        "smallest_cacheable_prefix": layout.prefix_unit,
    }


def capacity_data(plan: DeploymentPlan, length: int) -> dict[str, Any]:
    """What fits, and what the engine will print. Lists are [low, middle, high] of the band."""
    ends = (plan.low, plan.cache, plan.high)
    middle = plan.cache or plan.low
    assert middle is not None
    length = min(length, middle.max_model_len)
    return {
        "max_model_len": middle.max_model_len,
        "num_blocks": [end.num_blocks if end else None for end in ends],
        "printed_tokens": [end.tokens if end else None for end in ends],
        "printed_concurrency": [round(end.concurrency, 2) if end else None for end in ends],
        "longest_context": [end.longest_context if end else None for end in ends],
        "request_length": length,
        "n_safe": [end.n_safe(length) if end else None for end in ends],
        "n_steady": [end.n_steady(length) if end else None for end in ends],
    }


def workload_data(workload: Workload) -> dict[str, Any]:
    """The lengths that were planned for."""
    return {
        "prompt": [workload.prompt_p50, workload.prompt_p95],
        "output": [workload.output_p50, workload.output_p95],
        "total": [workload.p50, workload.p95],
        "source": workload.source,
    }


def served(plan: DeploymentPlan) -> ServedModel:
    """The model of a plan as the roofline sees it."""
    cache = plan.deployment.cache
    return ServedModel(
        plan.deployment.arch,
        plan.weights,
        plan.layout.kv_bytes_per_token,
        plan.layout.state_bytes_per_sequence,
        plan.deployment.quantization,
        cache.tensor_parallel_size,
    )


def served_bound(plan: DeploymentPlan, workload: Workload) -> ThroughputBound | None:
    """The throughput bound with max_num_seqs requests of median length; None where the device has no peaks."""
    if plan.deployment.cache.pipeline_parallel_size > 1:
        return None
    try:
        device = device_peaks(plan.deployment.accelerator, plan.deployment.quantization)
    except CatalogError:
        return None
    return bound(served(plan), device, plan.max_num_seqs, workload.prompt_p50, workload.output_p50)


def _bound_data(limit: ThroughputBound | None) -> dict[str, Any] | None:
    if limit is None:
        return None
    return {
        "batch": limit.batch,
        "output_tokens_per_s": limit.output_tokens_per_s,
        "inter_token_s": limit.inter_token_s,
        "first_token_s": limit.first_token_s,
        "prefill_share": limit.prefill_share,
        "decode_limit": limit.decode_limit,
    }


def _without_advice(planned: ResolvedPlan) -> dict[str, Any]:
    """What would happen with the settings alone and the engine's defaults for the rest.

    `unknown` on a CPU whose memory nobody has told: there the engine takes its share of the NUMA node.
    """
    asked = planned.asked
    if not (asked.total_bytes or asked.accelerator.memory_bytes or asked.kv_cache_memory_bytes):
        return {"verdict": "unknown"}
    try:
        plan = plan_deployment(asked)
    except PlanRefused as refusal:
        return {"verdict": "refused", **refusal.as_dict()}
    refusal_ = plan.refusal or plan.low_refusal
    return {"verdict": plan.verdict, **(refusal_.as_dict() if refusal_ else {})}


def _engine_args(planned: ResolvedPlan) -> dict[str, Any] | None:
    """None for a model whose weights have no place yet: it can be planned but not served."""
    try:
        return engine_args(planned.settings, planned)
    except ConfigError:
        return None


def _flag(flag: Flag) -> dict[str, Any]:
    return {"name": flag.name, "value": flag.value, "reason": flag.reason, "gain": flag.gain}


def _uncertain(planned: ResolvedPlan) -> list[str]:
    """Facts under this plan that no primary source has confirmed."""
    accelerator = planned.advice.plan.deployment.accelerator
    facts = [*accelerator.memory.uncertain, *accelerator.bandwidth.uncertain, *accelerator.compute.uncertain]
    card = planned.model.card
    if card is not None:
        facts += [f"config.{name}" for name in card.config.uncertain]
        facts += [f"weights.{name}" for name in card.weights.uncertain]
    return facts
