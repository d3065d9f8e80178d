"""Policies to compare: this package's, and common ones as their documentation describes them.

The common policies have their own polling interval, tolerance and delays, as in production.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from math import ceil

from hybridserve.autoscaling.policy import Decision, PolicyState, compute_replicas
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.simulator.fleet import View


@dataclass
class HybridServePolicy:
    """The policy of this package."""

    spec: ScalingSpec
    name: str = "hybrid"
    state: PolicyState = field(default_factory=PolicyState)
    last: Decision | None = None

    def target(self, view: View) -> int:
        self.last = compute_replicas(view.metrics, self.spec, self.state)
        self.state = self.last.state
        return self.last.replicas


@dataclass
class Fixed:
    """A constant number."""

    replicas: int
    name: str = "fixed"

    def target(self, view: View) -> int:
        return self.replicas


def _ongoing(view: View) -> int:
    """Requests in the router and on all replicas."""
    return view.metrics.queued + sum(replica.running + replica.waiting for replica in view.metrics.replicas)


@dataclass(kw_only=True)
class RayPolicy(ABC):
    """Ray Serve's delays: a change must be requested continuously (`_apply_delay_logic`, Ray 2.60)."""

    up_s: float = 30.0
    down_s: float = 600.0
    since: float = field(default=0.0, init=False)
    direction: int = field(default=0, init=False)

    @abstractmethod
    def desired(self, view: View) -> int:
        """Replicas before the delays."""

    def target(self, view: View) -> int:
        metrics, desired = view.metrics, self.desired(view)
        if metrics.ready == 0:
            return max(1, metrics.target) if _ongoing(view) else metrics.target
        direction = (desired > metrics.target) - (desired < metrics.target)
        if direction != self.direction or direction == 0:
            self.direction, self.since = direction, metrics.now
        if direction == 0 or metrics.now - self.since < (self.up_s if direction > 0 else self.down_s):
            return metrics.target
        self.direction = 0
        return max(desired, 1) if metrics.target > 1 else desired


@dataclass(kw_only=True)
class RayQueueLength(RayPolicy):
    """Ray Serve's default: ongoing requests over a target per replica, mean over a look-back, delays.

    Source: ray/serve/autoscaling_policy.py 2.60; defaults of AutoscalingConfig: target 2, look-back 30 s, delays 30 s
    up and 600 s down.
    """

    target_ongoing: float
    look_back_s: float = 30.0
    name: str = "ray-queue-length"
    window: deque[tuple[float, float]] = field(default_factory=deque)

    def desired(self, view: View) -> int:
        now = view.metrics.now
        self.window.append((now, _ongoing(view)))
        while self.window[0][0] < now - self.look_back_s:
            self.window.popleft()
        return ceil(sum(value for _, value in self.window) / len(self.window) / self.target_ongoing - 1e-9)


@dataclass(kw_only=True)
class RayTtft(RayPolicy):
    """Ray Serve LLM's TTFT policy: one more replica while p99 is over the goal; one less when nearly idle.

    Source: Ray Serve LLM's documentation (newer than 2.60): p99 over 2 s adds one, fewer than 1.0 ongoing requests a
    replica removes one, a stale value changes nothing; then Ray Serve's delays.
    """

    goal_s: float = 2.0
    idle_ongoing: float = 1.0
    name: str = "ray-ttft"

    def desired(self, view: View) -> int:
        metrics, p99 = view.metrics, view.ttft_p99
        if p99 is not None and p99 > self.goal_s:
            return metrics.target + 1
        return metrics.target - (_ongoing(view) / max(1, metrics.ready) < self.idle_ongoing)


@dataclass
class HorizontalPodAutoscaler:
    """Common parts of KEDA and the Kubernetes autoscaler: polling, a tolerance of 10 %, a window for scale-down.

    Source: Kubernetes documentation, Horizontal Pod Autoscaling: sync 15 s, stabilization window of scale-down 300 s,
    scale-up by at most 4 pods or 100 % in 15 s.
    """

    stabilization_s: float = 300.0
    poll_s: float = 15.0
    tolerance: float = 0.1
    polled_at: float = float("-inf")
    wanted: deque[tuple[float, int]] = field(default_factory=deque)

    def due(self, now: float) -> bool:
        if now - self.polled_at < self.poll_s:
            return False
        self.polled_at = now
        return True

    def apply(self, now: float, raw: float, target: int) -> int:
        wanted = target if target and abs(raw / target - 1) <= self.tolerance else ceil(raw - 1e-9)
        wanted = min(wanted, max(2 * target, target + 4))
        self.wanted.append((now, wanted))
        while self.wanted[0][0] < now - self.stabilization_s:
            self.wanted.popleft()
        return max(count for _, count in self.wanted) if wanted < target else wanted


@dataclass
class KedaWaiting:
    """KEDA on `vllm:num_requests_waiting`: waiting requests over a threshold, as an average value.

    Source: production-stack's chart: threshold 5, polling 15 s.
    """

    threshold: float = 5.0
    stabilization_s: float = 300.0
    name: str = "keda-waiting"
    hpa: HorizontalPodAutoscaler = field(init=False)

    def __post_init__(self) -> None:
        self.hpa = HorizontalPodAutoscaler(self.stabilization_s)

    def target(self, view: View) -> int:
        metrics = view.metrics
        if not self.hpa.due(metrics.now):
            return metrics.target
        waiting = metrics.queued + sum(replica.waiting for replica in metrics.replicas)
        return self.hpa.apply(metrics.now, waiting / self.threshold, metrics.target)


@dataclass
class KvUsage:
    """The Kubernetes autoscaler on the mean `vllm:kv_cache_usage_perc`.

    Source: samples of AIBrix, NIM Operator (0.5) and llm-d (0.8).
    """

    threshold: float = 0.8
    stabilization_s: float = 300.0
    name: str = "kv-usage"
    usable_blocks: int = 1
    hpa: HorizontalPodAutoscaler = field(init=False)

    def __post_init__(self) -> None:
        self.hpa = HorizontalPodAutoscaler(self.stabilization_s)

    def target(self, view: View) -> int:
        metrics = view.metrics
        if not self.hpa.due(metrics.now) or not metrics.replicas:
            return max(metrics.target, 1) if metrics.queued else metrics.target
        used = sum(replica.blocks_used for replica in metrics.replicas) / len(metrics.replicas) / self.usable_blocks
        return self.hpa.apply(metrics.now, len(metrics.replicas) * used / self.threshold, metrics.target)


@dataclass
class KnativeConcurrency:
    """Knative's autoscaler on concurrency: a stable and a panic window.

    Source: Knative documentation: stable window 60 s, panic window 10 % of it, panic at 200 % of the target of the
    ready replicas, at most 1000 times up and half down in one decision, every 2 s.
    """

    concurrency: float
    stable_s: float = 60.0
    down_delay_s: float = 0.0
    name: str = "knative-concurrency"
    window: deque[tuple[float, float]] = field(default_factory=deque)
    panic_until: float = float("-inf")
    panic_replicas: int = 0
    decided_at: float = float("-inf")
    wanted: deque[tuple[float, int]] = field(default_factory=deque)

    def target(self, view: View) -> int:
        metrics = view.metrics
        ongoing = _ongoing(view)
        self.window.append((metrics.now, ongoing))
        while self.window[0][0] < metrics.now - self.stable_s:
            self.window.popleft()
        if metrics.now - self.decided_at < 2.0:
            return metrics.target
        self.decided_at = metrics.now
        ready = max(metrics.ready, 1)
        recent = [value for at, value in self.window if at > metrics.now - self.stable_s / 10]
        stable = ceil(sum(value for _, value in self.window) / len(self.window) / self.concurrency - 1e-9)
        panic = ceil(sum(recent) / len(recent) / self.concurrency - 1e-9)
        if panic / ready >= 2.0:
            self.panic_until = metrics.now + self.stable_s
        if metrics.now < self.panic_until:
            self.panic_replicas = max(self.panic_replicas, panic, metrics.target)
            wanted = self.panic_replicas
        else:
            self.panic_replicas = 0
            wanted = max(stable, ready // 2)
        self.wanted.append((metrics.now, wanted))
        while self.wanted[0][0] < metrics.now - self.down_delay_s:
            self.wanted.popleft()
        return max(count for _, count in self.wanted)
