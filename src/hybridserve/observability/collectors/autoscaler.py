"""What the scaling law decided, as gauges of the process it runs in."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from hybridserve.autoscaling.policy import Decision
from hybridserve.autoscaling.replica_metrics import FleetMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.observability import metrics as m
from hybridserve.observability.sink import PrometheusMetrics

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


class ScalingMetrics:
    """The families of `metrics.CONTROLLER` in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._sink = PrometheusMetrics(m.CONTROLLER, self.registry)

    def decided(self, seen: FleetMetrics, spec: ScalingSpec, decision: Decision, dry_run: bool) -> None:
        """Show one decision."""
        put = self._sink.set
        put(m.DESIRED.name, {}, decision.replicas)
        put(m.TARGET.name, {}, seen.target)
        put(m.READY.name, {}, seen.ready)
        put(m.SILENT.name, {}, seen.ready - sum(reading.age_s <= spec.stale_s for reading in seen.readings))
        put(m.BOUND.name, {"limit": "min"}, spec.min_replicas)
        put(m.BOUND.name, {"limit": "max"}, spec.max_replicas)
        put(m.DEMAND.name, {"resource": "state_slots"}, decision.limits.state_slots)
        put(m.DEMAND.name, {"resource": "kv_blocks"}, decision.limits.kv_blocks)
        put(m.DEMAND.name, {"resource": "prefill"}, decision.limits.prefill)
        put(m.DRY_RUN.name, {}, float(dry_run))
        change = decision.replicas - seen.target
        direction = "up" if change > 0 else "down" if change < 0 else "hold"
        self._sink.count(m.DECISIONS.name, {"direction": direction, "reason": reason_class(decision.reason)})

    def failed(self) -> None:
        """The law broke, and the number was held."""
        self._sink.count(m.FAULTS.name, {})
