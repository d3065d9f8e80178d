"""The view of a deployment for the compliance rules, built from its settings and its plan."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

from hybridserve.catalog.accelerators import Accelerator
from hybridserve.catalog.engines import engine_table
from hybridserve.compliance import DeploymentView, deployment_view
from hybridserve.compliance.evaluate import evaluate
from hybridserve.compliance.findings import Profile
from hybridserve.compliance.view import CacheFacts, PlannedEngine
from hybridserve.errors import ConfigError, PlanRefused
from hybridserve.planning.cache.dtypes import takes_ssm_dtype
from hybridserve.planning.cache.validation import state_kind
from hybridserve.planning.deployment import Deployment, DeploymentPlan, plan_deployment
from hybridserve.planning.extra_args import ONLINE_PRECISIONS, extra_args
from hybridserve.planning.resolve import ResolvedPlan, deployment_from, engine_args, find_model, plan_settings
from hybridserve.planning.tradeoffs import finer_unit
from hybridserve.settings import Settings


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
        **_state(plan.deployment),
        **_device(plan.deployment.accelerator),
    )
    return deployment_view(planned.settings, planned.model, engine, profile)


def production_decisions(planned: ResolvedPlan, day: date) -> list[str]:
    """What profile production still requires of a person, one line each; empty where the settings have all of it."""
    return [
        f"{finding.rule}: {f'{finding.subject}: ' * bool(finding.subject)}{finding.evidence}; {finding.remedy}"
        for finding in evaluate(planned_view(planned, "production"), day)
        if finding.blocks("production")
    ]


def _refused_view(settings: Settings, profile: Profile, refusal: PlanRefused) -> DeploymentView:
    model = find_model(settings)
    asked = deployment_from(settings, model)
    engine = PlannedEngine(
        args={**settings.engine.model_dump(mode="json", exclude={"extra_args"}), **extra_args(settings.engine)},
        cache=_facts_of_one_sequence(asked),
        refusal=refusal.what,
        **_state(asked),
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


def _state(asked: Deployment) -> dict[str, Any]:
    arch, precision = asked.arch, asked.precision
    converts = precision.name if precision in ONLINE_PRECISIONS else None
    state: dict[str, Any] = {"hybrid": arch.hybrid, "converts": converts}
    if arch.state:
        table, _ = engine_table(asked.cache.engine)
        state |= {"mixer": state_kind(arch.state), "takes_ssm_dtype": takes_ssm_dtype(arch.state, table)}
    return state


def _device(device: Accelerator) -> dict[str, Any]:
    return {"platform": device.platform, "rounds_stochastically": device.rounds_stochastically}


def _cache_facts(plan: DeploymentPlan) -> CacheFacts | None:
    cache = plan.low or plan.cache
    if cache is None:
        return None
    finer = finer_unit(plan)
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
        pool_known=plan.low == plan.cache,
        finer_unit=f"{finer.name} {finer.value}: {finer.price}" if finer else None,
    )


def _facts_of_one_sequence(asked: Deployment) -> CacheFacts | None:
    """The cache with one sequence at a time: it shows by how much a refused max_num_seqs is too large."""
    try:
        facts = _cache_facts(plan_deployment(replace(asked, cache=replace(asked.cache, max_num_seqs=1))))
    except PlanRefused:
        return None
    wanted = asked.cache.max_num_seqs
    return replace(facts, max_num_seqs=wanted) if facts and wanted else facts
