"""Records the decisions of the scaling policy as metrics."""

from __future__ import annotations

from hybridserve.autoscaling.policy import Decision
from hybridserve.autoscaling.replica_metrics import FleetMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.observability.metrics import AutoscalerMetrics

# A decision's sentence has numbers in it and so cannot be a label; these parts of it name its class.
_CLASSES = (
    ("no reading from any", "no_readings"),
    ("are silent", "silent_replicas"),
    ("is outside", "bound"),
    ("in one step", "rate_limit"),
    ("looking for", "young_controller"),
    ("still drain", "draining"),
    ("were needed", "recent_peak"),
    ("no request for", "idle"),
    ("idle for", "idle"),
    ("burst:", "burst"),
    ("state slots bind", "state_slots"),
    ("KV blocks bind", "kv_blocks"),
    ("prefill tokens bind", "prefill"),
)
REASONS = (*dict.fromkeys(name for _, name in _CLASSES), "other")


def reason_class(reason: str) -> str:
    """The class of a decision's sentence, one of `REASONS`."""
    return next((name for part, name in _CLASSES if part in reason), "other")


def record_decision(
    metrics: AutoscalerMetrics, seen: FleetMetrics, spec: ScalingSpec, decision: Decision, dry_run: bool
) -> None:
    """Set the autoscaler's metrics to one decision."""
    fresh = sum(reading.age_s <= spec.stale_s for reading in seen.readings)
    metrics.desired_replicas.set(decision.replicas)
    metrics.target_replicas.set(seen.target)
    metrics.ready_replicas.set(seen.ready)
    metrics.replicas_without_metrics.set(seen.ready - fresh)
    metrics.replica_limit.labels("min").set(spec.min_replicas)
    metrics.replica_limit.labels("max").set(spec.max_replicas)
    for resource in ("state_slots", "kv_blocks", "prefill"):
        metrics.demand_replicas.labels(resource).set(getattr(decision.limits, resource))
    metrics.dry_run.set(float(dry_run))
    change = decision.replicas - seen.target
    direction = "up" if change > 0 else "down" if change < 0 else "hold"
    metrics.decisions.labels(direction, reason_class(decision.reason)).inc()
