"""The gate before readiness: settings are planned, judged, and let through or not. Light: no engine is imported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hybridserve.catalog.accelerators import Accelerator
from hybridserve.catalog.models import ResolvedModel
from hybridserve.compliance import DeploymentView, deployment_view
from hybridserve.compliance.findings import Profile
from hybridserve.compliance.view import CacheFacts, PlannedEngine
from hybridserve.errors import ConfigError, PlanRefused
from hybridserve.planning.deployment import Deployment, DeploymentPlan, plan_deployment
from hybridserve.planning.resolve import ResolvedPlan, deployment_from, engine_args, find_model, plan_settings
from hybridserve.settings import Settings


def build_view(settings: Settings, profile: Profile | None = None) -> DeploymentView:
    """The deployment that these settings describe, planned and with its files read.

    Raises:
        CatalogError: the model or the accelerator is not known.
        ConfigError: a setting contradicts another or names a file that is not there.
    """
    profile = profile or settings.server.profile
    try:
        planned = plan_settings(settings)
    except PlanRefused as refused:
        model = find_model(settings)
        return deployment_view(settings, model, _refused(settings, model, refused), profile)
    plan = planned.advice.plan
    engine = PlannedEngine(
        args=_args(settings, planned),
        cache=_facts(plan),
        hybrid=plan.deployment.arch.hybrid,
        **_device(plan.deployment.accelerator),
    )
    return deployment_view(settings, planned.model, engine, profile)


def _refused(settings: Settings, model: ResolvedModel, refused: PlanRefused) -> PlannedEngine:
    asked = deployment_from(settings, model)
    args = {**settings.engine.model_dump(mode="json", exclude={"extra_args"}), **settings.engine.extra_args}
    return PlannedEngine(
        args=args,
        cache=_facts_without_refusal(asked),
        refusal=refused.what,
        hybrid=asked.arch.hybrid,
        **_device(asked.accelerator),
    )


def _args(settings: Settings, planned: ResolvedPlan) -> dict[str, Any]:
    try:
        return engine_args(settings, planned)
    except ConfigError as error:
        # Weights that come from nowhere are no reason not to judge the rest: serve will say so itself.
        if error.where != "model.source":
            raise
        here = settings.model.model_copy(update={"source": "."})
        return engine_args(settings.model_copy(update={"model": here}), planned)


def _device(device: Accelerator) -> dict[str, Any]:
    major = (device.compute_capability or "").split(".")[0]
    return {"platform": device.platform, "blackwell": major in ("10", "12")}


def _facts(plan: DeploymentPlan) -> CacheFacts | None:
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


def _facts_without_refusal(asked: Deployment) -> CacheFacts | None:
    """The cache as it would be with one sequence at a time: says how far off a refused max_num_seqs is."""
    try:
        facts = _facts(plan_deployment(replace(asked, cache=replace(asked.cache, max_num_seqs=1))))
    except PlanRefused:
        return None
    wanted = asked.cache.max_num_seqs
    return replace(facts, max_num_seqs=wanted) if facts and wanted else facts
