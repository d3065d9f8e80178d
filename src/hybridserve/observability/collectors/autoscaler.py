"""Records the decisions of the scaling policy as metrics and log events."""

from __future__ import annotations

import logging

from hybridserve.autoscaling.policy import Decision
from hybridserve.autoscaling.replica_metrics import FleetMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.observability.metrics import AutoscalerMetrics

logger = logging.getLogger("hybridserve.autoscaling")


def record_decision(metrics: AutoscalerMetrics, fleet: FleetMetrics, spec: ScalingSpec, decision: Decision) -> None:
    """Set the autoscaler's metrics to one decision, and log it if it changes the number of replicas."""
    fresh = sum(replica.age_s <= spec.stale_s for replica in fleet.replicas)
    metrics.desired_replicas.set(decision.replicas)
    metrics.target_replicas.set(fleet.target)
    metrics.ready_replicas.set(fleet.ready)
    metrics.replicas_without_metrics.set(fleet.ready - fresh)
    metrics.replica_limit.labels("min").set(spec.min_replicas)
    metrics.replica_limit.labels("max").set(spec.max_replicas)
    for resource in ("state_slots", "kv_blocks", "prefill"):
        metrics.demand_replicas.labels(resource).set(getattr(decision.required, resource))
    metrics.dry_run.set(float(spec.dry_run))
    change = decision.replicas - fleet.target
    direction = "up" if change > 0 else "down" if change < 0 else "hold"
    metrics.decisions.labels(direction, decision.cause).inc()
    if change:
        fields = {"from": fleet.target, "to": decision.replicas, "cause": decision.cause.value}
        logger.info("scale_dry_run" if spec.dry_run else "scale", extra={**fields, "reason": decision.reason})
