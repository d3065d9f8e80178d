"""Records the decisions of the scaling policy as metrics."""

from __future__ import annotations

from hybridserve.autoscaling.policy import Decision
from hybridserve.autoscaling.replica_metrics import FleetMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.observability.metrics import AutoscalerMetrics


def record_decision(metrics: AutoscalerMetrics, fleet: FleetMetrics, spec: ScalingSpec, decision: Decision) -> None:
    """Set the autoscaler's metrics to one decision."""
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
