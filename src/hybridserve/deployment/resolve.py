"""From settings to a `DeploymentSpec`: one plan, and everything that follows from it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from hybridserve.autoscaling.capacity import UNLIMITED_PREFILL, ReplicaCapacity
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.compliance import (
    compliance_document,
    compliance_status,
    evaluate,
)
from hybridserve.compliance.documents import attribution_header, served_licenses
from hybridserve.deployment.compliance_view import planned_view
from hybridserve.deployment.spec import DeploymentSpec, PlanSummary
from hybridserve.planning.deployment import profiled_settings
from hybridserve.planning.differences import planned_values
from hybridserve.planning.resolve import (
    DEFAULT_OPTIONS,
    PlanOptions,
    ResolvedPlan,
    engine_args,
    engine_environment,
    plan_settings,
)
from hybridserve.settings import Settings

ATTRIBUTION_HEADER = "x-model-attribution"


def resolve_deployment(
    settings: Settings, today: date | None = None, options: PlanOptions = DEFAULT_OPTIONS
) -> DeploymentSpec:
    """Plan the deployment and compute everything that follows from the plan.

    Args:
        today: day on which the compliance rules are evaluated; None leaves them out.
        options: what the plan is made for, beside the settings.

    Raises:
        CatalogError: the model or the accelerator is not known.
        ConfigError: a setting contradicts another, or names a file that cannot be read.
        PlanRefused: the engine would not start.
    """
    planned = plan_settings(settings, options)
    spec = DeploymentSpec(
        settings=settings,
        plan=_summary(planned),
        engine_args=engine_args(settings, planned),
        engine_environment=engine_environment(settings),
        scaling=scaling_spec(planned),
    )
    return spec if today is None else _judged(spec, planned, today)


def scaling_spec(planned: ResolvedPlan) -> ScalingSpec:
    """The scaling settings with the capacity of a planned replica."""
    plan, scaling = planned.advice.plan, planned.settings.scaling
    cache = plan.cache
    assert cache is not None  # `recommend` raises PlanRefused where nothing fits
    rate = scaling.prefill_tokens_per_s or UNLIMITED_PREFILL
    layout = cache.layout
    capacity = ReplicaCapacity.from_blocks(
        cache.num_blocks, layout.block_size, layout.running_blocks, plan.max_num_seqs, rate
    )
    return ScalingSpec(**scaling.model_dump(), capacity=capacity)


def _summary(planned: ResolvedPlan) -> PlanSummary:
    plan = planned.advice.plan
    assert plan.cache is not None
    deployment = plan.deployment
    devices = deployment.cache.tensor_parallel_size * deployment.cache.pipeline_parallel_size
    profile_key = None
    if deployment.kv_cache_memory_bytes is None:
        profile_key = {
            "model": planned.model.id,
            "accelerator": deployment.accelerator.id,
            "settings": dict(profiled_settings(deployment)),
        }
    return PlanSummary(
        cache=planned_values(plan.cache),
        weight_bytes=plan.weights.bytes * devices,
        cache_bytes=plan.cache.num_blocks * plan.layout.bytes_per_block * devices,
        model_folder=str(planned.model.folder) if planned.model.folder else None,
        profile_key=profile_key,
    )


def _judged(spec: DeploymentSpec, planned: ResolvedPlan, today: date) -> DeploymentSpec:
    """The spec with the documents, headers and refusals of the compliance rules."""
    profile = spec.settings.server.profile
    view = planned_view(planned, profile)
    findings = evaluate(view, today)
    header = attribution_header(view)
    refused = compliance_status(findings, profile) == "refuse"
    return replace(
        spec,
        documents={
            "/compliance": compliance_document(findings, profile, today, view.evidence),
            "/licenses": served_licenses(view),
        },
        headers={ATTRIBUTION_HEADER: header} if header else {},
        refusals=tuple(
            f"{finding.rule}: {finding.evidence}" for finding in findings if refused and finding.blocks(profile)
        ),
    )
