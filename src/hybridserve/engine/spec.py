"""The capacity of one replica as the plan has it: what scaling divides demand by."""

from __future__ import annotations

from hybridserve.autoscaling.capacity import UNLIMITED_PREFILL, ReplicaCapacity, capacity_from_plan
from hybridserve.errors import ConfigError
from hybridserve.planning.resolve import ResolvedPlan, plan_settings
from hybridserve.settings import Settings


def replica_capacity(settings: Settings, planned: ResolvedPlan | None = None) -> ReplicaCapacity:
    """State slots, blocks and prefill rate of a replica with these settings.

    Raises:
        PlanRefused, CatalogError: there is no plan.
        ConfigError: the plan has no cache, so there is nothing to scale by.
    """
    planned = planned or plan_settings(settings)
    plan = planned.advice.plan
    if plan.cache is None:
        raise ConfigError(
            "scaling.policy", "needs a plan of the cache, and there is none", "see `hybridserve plan`, or queue_length"
        )
    rate = settings.scaling.prefill_tokens_per_s or UNLIMITED_PREFILL
    return capacity_from_plan(plan.cache, plan.max_num_seqs, rate)
