"""A HorizontalPodAutoscaler with one external metric, for tests: the controller's formula, without a cluster.

Follows Kubernetes 1.33, pkg/controller/podautoscaler: `GetExternalPerPodMetricReplicas` of replica_calculator.go, and
`stabilizeRecommendationWithBehaviors` and `convertDesiredReplicasWithBehaviorRate` of horizontal.go. Left out: several
metrics, and pods that are not ready (an external metric with a target per pod does not look at them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

SYNC_S = 15.0
TOLERANCE = 0.1
# Of the chart's HorizontalPodAutoscaler and ScaledObject; tests/chart compares.
TARGET = {"type": "AverageValue", "averageValue": "1"}
BEHAVIOR = {
    direction: {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": most, "periodSeconds": 15}]}
    for direction, most in (("scaleUp", 900), ("scaleDown", 100))
}


def hpa_spec(least: int, most: int) -> dict[str, Any]:
    """The part of an HPA's spec that `ScriptedHPA` reads."""
    return {
        "minReplicas": least,
        "maxReplicas": most,
        "metrics": [{"type": "External", "external": {"target": TARGET}}],
        "behavior": BEHAVIOR,
    }


@dataclass
class ScriptedHPA:
    """The controller's memory of one HPA. `spec` is that of an autoscaling/v2 object."""

    spec: Mapping[str, Any]
    recommendations: list[tuple[float, int]] = field(default_factory=list)
    changes: list[tuple[float, int]] = field(default_factory=list)

    def reconcile(self, now: float, current: int, value: float | None) -> int:
        """Replicas after one sync; a metric that cannot be read (None) leaves them as they are."""
        least, most = self.spec["minReplicas"], self.spec["maxReplicas"]
        if not least <= current <= most:
            return min(max(current, least), most)
        if value is None:
            return current
        (metric,) = self.spec["metrics"]
        target = float(metric["external"]["target"]["averageValue"])
        desired = current
        if abs(1.0 - value / (target * current)) > TOLERANCE:
            desired = ceil(value / target)
        desired = self._rate_limited(now, current, self._stabilized(now, current, desired))
        if desired != current:
            self.changes.append((now, desired - current))
        return desired

    def _stabilized(self, now: float, current: int, desired: int) -> int:
        up = down = desired
        for at, recommended in self.recommendations:
            if at > now - self.spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"]:
                up = min(up, recommended)
            if at > now - self.spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"]:
                down = max(down, recommended)
        self.recommendations.append((now, desired))
        return min(max(current, up), down)

    def _rate_limited(self, now: float, current: int, desired: int) -> int:
        if desired > current:
            limit = self._limit(now, current, "scaleUp", lambda start, share: ceil(start * (1 + share)))
            desired = min(desired, max(limit, current))
        elif desired < current:
            limit = self._limit(now, current, "scaleDown", lambda start, share: int(start * (1 - share)))
            desired = max(desired, min(limit, current))
        return min(max(desired, self.spec["minReplicas"]), self.spec["maxReplicas"])

    def _limit(self, now: float, current: int, direction: str, percent: Callable[[int, float], int]) -> int:
        rules = self.spec["behavior"][direction]
        proposed = []
        for policy in rules["policies"]:
            start = current - sum(change for at, change in self.changes if at > now - policy["periodSeconds"])
            if policy["type"] == "Percent":
                proposed.append(percent(start, policy["value"] / 100))
            else:
                proposed.append(start + (policy["value"] if direction == "scaleUp" else -policy["value"]))
        largest_change = max if direction == "scaleUp" else min
        return int(largest_change(proposed))
