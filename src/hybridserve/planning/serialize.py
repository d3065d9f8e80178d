"""A plan as plain data: the output of `--json`, and the source of the text view."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hybridserve.catalog.models import ModelCard
from hybridserve.errors import CatalogError, ConfigError, PlanRefused
from hybridserve.planning.deployment import DeploymentPlan, plan_deployment
from hybridserve.planning.extra_args import extra
from hybridserve.planning.memory.weights import count_weights
from hybridserve.planning.resolve import ResolvedPlan, engine_args
from hybridserve.planning.roofline import ServedModel, ThroughputBound, bound, device_peaks
from hybridserve.planning.speculation import break_even
from hybridserve.planning.workload import ASSUMED, Workload
from hybridserve.settings.engine import EngineSection
from hybridserve.units import format_gib


def report(planned: ResolvedPlan) -> dict[str, Any]:
    """The whole plan. Sizes are bytes, lengths are tokens; lists are `[low, middle, high]` of the band."""
    advice, plan = planned.advice, planned.advice.plan
    deployment, accelerator = plan.deployment, plan.deployment.accelerator
    return {
        "model": planned.model.id,
        "name": planned.model.card.name if planned.model.card else planned.model.id,
        "parameters": plan.weights.parameters,
        "accelerator": {
            "id": accelerator.id,
            "name": accelerator.name,
            "nominal_gb": accelerator.memory.nominal_gb,
            "memory_set": planned.settings.accelerator.memory_gib is not None,
            "memory_exceeded": bool(more_than_usable(planned)),
            "uncertain": _uncertain(planned),
        },
        "engine": deployment.cache.engine,
        "tensor_parallel_size": deployment.cache.tensor_parallel_size,
        "pipeline_parallel_size": deployment.cache.pipeline_parallel_size,
        "confidence": plan.budget.confidence,
        "verdict": plan.verdict,
        "goal": advice.goal,
        "workload": workload_data(advice.workload),
        "without_advice": _without_advice(planned),
        "memory": memory_data(plan) | _chosen_pool(planned),
        "cache": cache_data(plan),
        "capacity": capacity_data(plan, advice.workload.p95) | {"asked": asked_data(planned)},
        "bound": asdict(limit) if (limit := served_bound(plan, advice.workload)) else None,
        "drafts": drafts_data(plan, advice.workload),
        "flags": [*_conversion(plan), *(asdict(flag) for flag in advice.flags)],
        "options": [asdict(alternative) for alternative in advice.alternatives],
        "warnings": [
            *plan.warnings,
            *more_than_usable(planned),
            *too_long(planned),
            *_block_over_budget(plan),
            *_unmeasured(plan),
            *_text_only(planned),
            *parser_notes(planned.model.card, planned.settings.engine),
        ],
        "engine_args": _engine_args(planned),
    }


def memory_data(plan: DeploymentPlan) -> dict[str, Any]:
    """The memory of the fullest device; `total` is None for a CPU of unknown memory."""
    budget = plan.budget
    return {
        "total": budget.total if plan.deployment.total_bytes else None,
        "requested": budget.requested if plan.deployment.total_bytes else None,
        "weights": budget.weights,
        "weights_source": plan.weights.how,
        "weights_band": plan.weights.band,
        "lora": budget.lora,
        "host": min(plan.deployment.cpu_offload_bytes, plan.weights.bytes),
        "runtime": budget.runtime,
        "activation": budget.activation,
        "graphs": budget.graphs,
        "pool": budget.kv,
        "pool_source": budget.source,
        "band": budget.band,
        "profiling_cache": budget.profiling_cache,
        "startup_peak": budget.startup_peak,
    }


def _chosen_pool(planned: ResolvedPlan) -> dict[str, str]:
    """On a CPU the plan gives the engine a pool where the user has not."""
    given = planned.asked.kv_cache_memory_bytes is not None
    chosen = planned.advice.plan.deployment.kv_cache_memory_bytes is not None and not given
    return {"pool_source": "kv_cache_memory_bytes, which the plan sets"} if chosen else {}


def cache_data(plan: DeploymentPlan) -> dict[str, Any]:
    """How the pool is divided."""
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
    """What fits, and what the engine prints. Lists are [low, middle, high] of the band."""
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


def too_long(planned: ResolvedPlan) -> list[str]:
    """A warning where the planned requests are longer than what the engine accepts.

    Nobody asked for the assumed lengths: they are a reason to warn only where somebody set the limit.
    """
    cache, workload = planned.advice.plan.low, planned.advice.workload
    limited = planned.settings.engine.max_model_len is not None
    if cache is None or workload.p95 <= cache.max_model_len or (workload is ASSUMED and not limited):
        return []
    lengths = "assumed: set --prompt and --output" if workload is ASSUMED else "p95 of prompt and output"
    return [
        f"requests of {workload.p95:,} tokens ({lengths}) are longer than max_model_len, "
        f"{cache.max_model_len:,}: the engine refuses or cuts them; the capacity above is for {cache.max_model_len:,} "
        "tokens."
    ]


def asked_data(planned: ResolvedPlan) -> dict[str, Any] | None:
    """The sequences that engine.max_num_seqs asks for, and how they fit at the low end; None where the plan chooses."""
    asked, plan = planned.settings.engine.max_num_seqs, planned.advice.plan
    if asked is None or plan.low is None:
        return None
    length = min(planned.advice.workload.p95, plan.low.max_model_len)
    most = plan.low.n_steady(length)
    preemptions = "none" if asked <= plan.low.n_safe(length) else "rare" if asked <= most else "frequent"
    return {"sequences": asked, "length": length, "most": most, "fits": asked <= most, "preemptions": preemptions}


def workload_data(workload: Workload) -> dict[str, Any]:
    """The lengths of requests that the plan is for."""
    return {
        "prompt": [workload.prompt_p50, workload.prompt_p95],
        "output": [workload.output_p50, workload.output_p95],
        "total": [workload.p50, workload.p95],
        "source": workload.source,
    }


def served_model(plan: DeploymentPlan) -> ServedModel:
    """The model of a plan, as input of the roofline."""
    cache = plan.deployment.cache
    return ServedModel(
        plan.deployment.arch,
        plan.weights,
        plan.layout.kv_bytes_per_token,
        plan.layout.state_bytes_per_sequence,
        plan.deployment.precision,
        cache.tensor_parallel_size,
    )


def served_bound(plan: DeploymentPlan, workload: Workload) -> ThroughputBound | None:
    """The throughput bound for requests of median length; None if the device's peaks are unknown.

    As many run at once as fit with the length at p95, up to max_num_seqs.
    """
    if plan.deployment.cache.pipeline_parallel_size > 1:
        return None
    try:
        device = device_peaks(plan.deployment.accelerator, plan.deployment.precision.compute)
    except CatalogError:
        return None
    return bound(served_model(plan), device, plan.running(workload.p95), workload.prompt_p50, workload.output_p50)


def drafts_data(plan: DeploymentPlan, workload: Workload) -> dict[str, Any] | None:
    """Batch sizes at which the draft tokens of the settings pay, by acceptance; None without drafts or peaks."""
    drafts, deployment = plan.deployment.cache.num_speculative_tokens, plan.deployment
    # The cost of a draft model that is a checkpoint of its own is not modeled.
    if not drafts or deployment.arch.draft is not None or deployment.cache.pipeline_parallel_size > 1:
        return None
    try:
        device = device_peaks(deployment.accelerator, deployment.precision.compute)
    except CatalogError:
        return None
    context = workload.prompt_p50 + workload.output_p50 / 2
    return {"tokens": drafts, "pays": [asdict(row) for row in break_even(served_model(plan), device, drafts, context)]}


def _without_advice(planned: ResolvedPlan) -> dict[str, Any]:
    """The plan with the settings alone, and the engine's defaults for the rest.

    `given` has the flags of the plan that the settings have. `unknown` on a CPU of unknown memory, where the engine
    takes a share of the NUMA node.
    """
    asked, fields = planned.asked, EngineSection.model_fields
    given = [
        flag.name
        for flag in planned.advice.flags
        if flag.name in fields and getattr(planned.settings.engine, flag.name) != fields[flag.name].default
    ]
    if not (asked.total_bytes or asked.accelerator.memory_bytes or asked.kv_cache_memory_bytes):
        return {"verdict": "unknown", "given": given}
    try:
        plan = plan_deployment(asked)
    except PlanRefused as refusal:
        return {"verdict": "refused", "given": given, **refusal.as_dict()}
    reason = plan.refusal or plan.low_refusal
    return {"verdict": plan.verdict, "given": given, **(reason.as_dict() if reason else {})}


def more_than_usable(planned: ResolvedPlan) -> list[str]:
    """A warning where the memory that is set is more than any device of this kind has."""
    device, set_gib = planned.advice.plan.deployment.accelerator, planned.settings.accelerator.memory_gib
    usable = (device.memory.highest_mib or 0) / 1024
    if not set_gib or not usable or set_gib <= usable:
        return []
    return [
        f"memory of {set_gib:g} GiB is more than the {usable:.2f} GiB that PyTorch reports of {device.name} at most: "
        "give usable memory, not the nominal size"
    ]


def _conversion(plan: DeploymentPlan) -> list[dict[str, Any]]:
    """The flag with which the engine quantizes the weights while it loads them."""
    deployment, cache = plan.deployment, plan.deployment.cache
    if not deployment.precision.converted:
        return []
    stored = count_weights(
        deployment.arch,
        dtype=cache.dtype,
        tensor_parallel_size=cache.tensor_parallel_size,
        pipeline_parallel_size=cache.pipeline_parallel_size,
        expert_parallel=deployment.expert_parallel,
    )
    gain = f"{format_gib(plan.weights.bytes)} of weights instead of {format_gib(stored.bytes)}"
    name, reason = deployment.precision.name, "set by you: vLLM converts the weights while it loads them"
    return [{"name": "quantization", "value": name, "reason": reason, "gain": gain}]


def _block_over_budget(plan: DeploymentPlan) -> list[str]:
    """A warning where one step has fewer tokens than a block, so that no prefill chunk is a whole block."""
    block, tokens = plan.layout.block_size, plan.max_num_batched_tokens
    if plan.layout.mode != "align" or block <= tokens:
        return []
    return [
        f"max_num_batched_tokens, {tokens:,}, is less than a block of {block:,} tokens, at whose boundaries the engine "
        "splits prompts: `hybridserve check` refuses it (engine.block-over-budget); set at least "
        f"{block + plan.max_num_seqs}."
    ]


def _unmeasured(plan: DeploymentPlan) -> list[str]:
    """A warning where the engine makes weights that nobody has compared with the checkpoint's."""
    if not plan.deployment.precision.converted:
        return []
    return [
        f"no figures exist for weights that vLLM converts to {plan.deployment.precision.name}: `hybridserve check` "
        "fails (engine.online-quantization) until `hybridserve verify` has compared them with the checkpoint's."
    ]


def _text_only(planned: ResolvedPlan) -> list[str]:
    """A warning where a model that reads images is planned without its encoders."""
    card = planned.model.card
    if card is None or not card.serving.language_model_only:
        return []
    return [
        "not counted: the encoders of images, video and audio. The model is planned and started for text only "
        "(--language-model-only); without this flag they take memory on top."
    ]


def parser_notes(card: ModelCard | None, engine: EngineSection) -> list[str]:
    """What is missing to parse tool calls and reasoning of a chat model, and what the reasoning parser needs."""
    if card is None or card.serving.kind == "base":
        return []
    serving, notes = card.serving, []
    if serving.parser_plugin and not extra(engine, "tool_parser_plugin", str, ""):
        notes.append(f"tool calls: UNKNOWN. {serving.parser_plugin}")
    elif not (engine.tool_call_parser or serving.tool_call_parser or serving.parser_plugin):
        notes.append(
            "tool calls: no parser of vLLM is known for this model, so the engine refuses tool_choice auto; set "
            "engine.tool_call_parser if one fits the model's format."
        )
    parser = engine.reasoning_parser or serving.reasoning_parser
    if not parser and serving.reasoning_switch in ("template", "system"):
        notes.append(
            "reasoning: no parser of vLLM is known for this model, so reasoning is returned in the content; set "
            "engine.reasoning_parser if one fits the model's format."
        )
    if parser and serving.reasoning_switch == "system":
        notes.append(
            f"reasoning: {parser} reads the argument enable_thinking, which the gateway sends with /think and "
            "/no_think. Without the gateway, send it with them: otherwise an answer after /no_think is returned as "
            "reasoning."
        )
    return notes


def _engine_args(planned: ResolvedPlan) -> dict[str, Any] | None:
    """None for a model without known weights: it can be planned but not served."""
    try:
        return engine_args(planned.settings, planned)
    except ConfigError:
        return None


def _uncertain(planned: ResolvedPlan) -> list[str]:
    """Facts used by this plan that no primary source confirms."""
    accelerator = planned.advice.plan.deployment.accelerator
    facts = [*accelerator.memory.uncertain, *accelerator.bandwidth.uncertain, *accelerator.compute.uncertain]
    card = planned.model.card
    if card is not None:
        facts += [f"config.{name}" for name in card.config.uncertain]
        facts += [f"weights.{name}" for name in card.weights.uncertain]
    return facts
