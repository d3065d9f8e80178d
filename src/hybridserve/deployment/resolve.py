"""From settings to a `DeploymentSpec`, and to the view of a deployment that the compliance rules read."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

from hybridserve.autoscaling.capacity import UNLIMITED_PREFILL, ReplicaCapacity
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.catalog.accelerators import Accelerator
from hybridserve.compliance import (
    DeploymentView,
    compliance_document,
    compliance_status,
    deployment_view,
    evaluate,
    licenses_document,
)
from hybridserve.compliance.documents import attribution_header
from hybridserve.compliance.evidence import evidence_sha256
from hybridserve.compliance.findings import Profile
from hybridserve.compliance.view import CacheFacts, PlannedEngine
from hybridserve.deployment.spec import DeploymentSpec, PlanSummary
from hybridserve.errors import ConfigError, PlanRefused
from hybridserve.planning.deployment import Deployment, DeploymentPlan, plan_deployment, profiled_settings
from hybridserve.planning.resolve import (
    DEFAULT_OPTIONS,
    PlanOptions,
    ResolvedPlan,
    deployment_from,
    engine_args,
    engine_environment,
    find_model,
    plan_settings,
)
from hybridserve.planning.verification import planned_values
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
    plan = planned.advice.plan
    cache = plan.cache
    assert cache is not None  # `recommend` raises PlanRefused where nothing fits
    rate = settings.scaling.prefill_tokens_per_s or UNLIMITED_PREFILL
    layout = cache.layout
    capacity = ReplicaCapacity.from_blocks(
        cache.num_blocks, layout.block_size, layout.running_blocks, plan.max_num_seqs, rate
    )
    spec = DeploymentSpec(
        settings=settings,
        plan=_summary(planned),
        engine_args=engine_args(settings, planned),
        engine_environment=engine_environment(settings),
        scaling=ScalingSpec(**settings.scaling.model_dump(), capacity=capacity),
    )
    return spec if today is None else _judged(spec, planned, today)


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
    settings, profile = spec.settings, spec.settings.server.profile
    view = planned_view(planned, profile)
    findings = evaluate(view, today)
    header = attribution_header(view)
    refused = compliance_status(findings, profile) == "refuse"
    return replace(
        spec,
        documents={
            "/compliance": compliance_document(findings, profile, today, evidence_sha256(settings.guard.evidence_file)),
            "/licenses": licenses_document(view),
        },
        headers={ATTRIBUTION_HEADER: header} if header else {},
        refusals=tuple(
            f"{finding.rule}: {finding.evidence}" for finding in findings if refused and finding.blocks(profile)
        ),
    )


def build_view(settings: Settings, profile: Profile | None = None) -> DeploymentView:
    """Plan the deployment and build the view for the compliance rules. A plan that is refused is part of the view.

    Args:
        profile: instead of `server.profile`.

    Raises:
        CatalogError: the model or the accelerator is not known.
        ConfigError: a setting contradicts another or names a file that is not there.
    """
    profile = profile or settings.server.profile
    try:
        return planned_view(plan_settings(settings), profile)
    except PlanRefused as refusal:
        return _refused_view(settings, profile, refusal)


def planned_view(planned: ResolvedPlan, profile: Profile) -> DeploymentView:
    """The view for the compliance rules of a deployment that is already planned.

    Raises:
        ConfigError: a file that the settings name cannot be read.
    """
    plan = planned.advice.plan
    engine = PlannedEngine(
        args=_engine_args(planned),
        cache=_cache_facts(plan),
        hybrid=plan.deployment.arch.hybrid,
        **_device(plan.deployment.accelerator),
    )
    return deployment_view(planned.settings, planned.model, engine, profile)


def _refused_view(settings: Settings, profile: Profile, refusal: PlanRefused) -> DeploymentView:
    model = find_model(settings)
    asked = deployment_from(settings, model)
    engine = PlannedEngine(
        args={**settings.engine.model_dump(mode="json", exclude={"extra_args"}), **settings.engine.extra_args},
        cache=_facts_of_one_sequence(asked),
        refusal=refusal.what,
        hybrid=asked.arch.hybrid,
        **_device(asked.accelerator),
    )
    return deployment_view(settings, model, engine, profile)


def _engine_args(planned: ResolvedPlan) -> dict[str, Any]:
    settings = planned.settings
    try:
        return engine_args(settings, planned)
    except ConfigError as error:
        # Unpublished weights do not prevent the other checks; `serve` reports them itself.
        if error.where != "model.source":
            raise
        here = settings.model.model_copy(update={"source": "."})
        return engine_args(settings.model_copy(update={"model": here}), planned)


def _device(device: Accelerator) -> dict[str, Any]:
    major = (device.compute_capability or "").split(".")[0]
    return {"platform": device.platform, "blackwell": major in ("10", "12")}


def _cache_facts(plan: DeploymentPlan) -> CacheFacts | None:
    cache = plan.low or plan.cache
    if cache is None:
        return None
    return CacheFacts(
        num_blocks=cache.num_blocks,
        block_size=cache.layout.block_size,
        mode=cache.layout.mode,
        prefix_unit=cache.layout.prefix_unit,
        max_model_len=cache.max_model_len,
        longest_context=cache.longest_context,
        max_num_seqs=plan.max_num_seqs,
        max_num_batched_tokens=plan.max_num_batched_tokens,
        full_cudagraphs=plan.deployment.cache.full_cudagraphs,
        exact=plan.low == plan.cache,
    )


def _facts_of_one_sequence(asked: Deployment) -> CacheFacts | None:
    """The cache with one sequence at a time: it shows by how much a refused max_num_seqs is too large."""
    try:
        facts = _cache_facts(plan_deployment(replace(asked, cache=replace(asked.cache, max_num_seqs=1))))
    except PlanRefused:
        return None
    wanted = asked.cache.max_num_seqs
    return replace(facts, max_num_seqs=wanted) if facts and wanted else facts
