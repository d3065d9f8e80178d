"""How KubeRay 1.7 moves capacity and traffic in an incremental upgrade, as decisions of one turn of its reconciler.

From ray-operator v1.7.0, rayservice_controller.go: calculateTrafficRoutedPercent, checkIfNeedTargetCapacityUpdate,
reconcileServeTargetCapacity, calculateStatus, IsIncrementalUpgradeComplete, shouldCompleteIncrementalRollback. Gateway
and HTTPRoute count as ready.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Part:
    """What the RayService's status has about one of the two clusters.

    Attributes:
        capacity: targetCapacity, percent of the application's replicas; None before it is set.
        traffic: trafficRoutedPercent; None before a route names the cluster.
        moved_s: lastTrafficMigratedTime.
    """

    capacity: int | None = None
    traffic: int | None = None
    moved_s: float | None = None


@dataclass(slots=True)
class Upgrade:
    """The active and the pending cluster, and whether the goal has changed since the pending one was made."""

    step: int = 25
    interval_s: float = 30.0
    surge: int = 100
    active: Part = field(default_factory=Part)
    pending: Part = field(default_factory=Part)
    rollback: bool = False

    def _capacities(self) -> tuple[int, int]:
        active, pending = self.active.capacity, self.pending.capacity
        return 100 if active is None else active, pending or 0

    def weights(self, ready: bool, now_s: float) -> tuple[int, int]:
        """Weights of the route to the active and the pending cluster; `ready`: the pending one's application runs."""
        traffic = 100 if self.active.traffic is None else self.active.traffic, self.pending.traffic or 0
        capacity = self._capacities()
        side = 0 if self.rollback else 1
        moved_s = (self.active, self.pending)[side].moved_s
        due = moved_s is None or now_s - moved_s >= self.interval_s
        if traffic[side] == capacity[side] or not due or not (ready or self.rollback):
            return traffic
        more = min(100, traffic[side] + self.step, capacity[side])
        return (more, 100 - more) if self.rollback else (100 - more, more)

    def note_traffic(self, weights: tuple[int, int], now_s: float) -> None:
        """Write the route's weights into the status."""
        for part, weight in zip((self.active, self.pending), weights, strict=True):
            if part.traffic != weight:
                part.traffic, part.moved_s = weight, now_s

    def new_capacity(self, is_active: bool) -> int | None:
        """The target_capacity that this turn gives the cluster; None leaves it."""
        active, pending = self.active.capacity, self.pending.capacity = self._capacities()
        more_than_one = active + pending > 100
        if self.rollback:
            if (active, pending) == (100, 0) or active != (self.active.traffic or 0) or is_active == more_than_one:
                return None
            goal = min(100, active + self.surge) if is_active else max(0, pending - self.surge)
        else:
            if (active, pending) == (0, 100) or pending != (self.pending.traffic or 0) or is_active != more_than_one:
                return None
            goal = max(0, active - self.surge) if is_active else min(100, pending + self.surge)
        return None if goal == (active if is_active else pending) else goal

    def is_complete(self) -> bool:
        """Whether the pending cluster becomes the active one."""
        return not self.rollback and self.active.capacity == 0 and self.pending.traffic == 100

    def is_rolled_back(self, head_ready: bool) -> bool:
        """Whether the pending cluster is given up; `head_ready`: its head pod can still be asked."""
        back = (self.active.capacity, self.active.traffic) == (100, 100)
        return self.rollback and back and (not head_ready or (self.pending.capacity, self.pending.traffic) == (0, 0))
