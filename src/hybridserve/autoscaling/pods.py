"""Pods that scale without Ray: what their metrics ports reported, and the decision that follows. Pure.

No source says which pods are ready. A pod is one of four: *reporting*, *draining*, *starting* (it appeared after the
first look and has not reported yet), or *missing*. Missing pods count as ready, so nothing is scaled down while one may
serve requests that are not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hybridserve.autoscaling.policy import Decision, PolicyState, compute_replicas
from hybridserve.autoscaling.replica_metrics import FleetMetrics, ReplicaMetrics
from hybridserve.autoscaling.spec import ScalingSpec


@dataclass(frozen=True, slots=True)
class PodReport:
    """One successful read of a pod's metrics port.

    Attributes:
        metrics: of its engine; None if the report is incomplete.
        draining: whether the pod shuts down and rejects new requests.
    """

    metrics: ReplicaMetrics | None
    draining: bool = False


@dataclass(frozen=True, slots=True)
class KnownPod:
    """A pod between two looks: when it appeared, and its last complete report with the time of it."""

    since: float
    metrics: ReplicaMetrics | None = None
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class PodFleet:
    """What one look leaves to the next. The initial value is that of a controller that has just started.

    Attributes:
        target: pods last requested; None before the first decision.
        pods: by address.
        policy: state of the scaling policy.
    """

    target: int | None = None
    pods: Mapping[str, KnownPod] = field(default_factory=dict)
    policy: PolicyState = field(default_factory=PolicyState)


def decide_pods(
    now: float, reports: Mapping[str, PodReport | None], spec: ScalingSpec, before: PodFleet, start_limit_s: float
) -> tuple[FleetMetrics, Decision, PodFleet]:
    """Decide the number of pods.

    Args:
        now: seconds on a clock that only moves forward.
        reports: of every pod that exists, by address; None where the metrics port does not answer.
        start_limit_s: a new pod that has not reported after this time is missing, no longer starting.

    Returns:
        The metrics that were used, the decision, and what the next call needs. After a restart of the controller the
        first target is the number of pods that exist, within the limits. In a dry run it is always that number,
        because something else scales.
    """
    pods: dict[str, KnownPod] = {}
    reporting: list[ReplicaMetrics] = []
    draining = missing = 0
    for address, report in reports.items():
        pod = before.pods.get(address) or KnownPod(now)
        if report is not None and report.metrics is not None:
            pod = replace(pod, metrics=report.metrics, at=now)
        pods[address] = pod
        if report is not None and report.draining:
            draining += 1
        elif pod.metrics is not None:
            reporting.append(replace(pod.metrics, replica=address, age_s=pod.metrics.age_s + now - pod.at))
        elif before.target is None or now - pod.since > start_limit_s:
            missing += 1
    if not reporting:
        # With no report at all, pods that start look like pods behind a blocked network.
        missing = len(reports) - draining
    if before.target is None:
        # The first look: what does not answer may be serving, and stays missing until it reports.
        pods = {address: replace(pod, since=now - start_limit_s) for address, pod in pods.items()}
    existing = min(max(len(reports) - draining, spec.min_replicas), spec.max_replicas)
    target = existing if before.target is None or spec.dry_run else before.target
    fleet = FleetMetrics(
        now=now,
        target=target,
        ready=len(reporting) + missing,
        draining=draining,
        replicas=tuple(reporting),
    )
    decision = compute_replicas(fleet, spec, before.policy)
    wanted = target if spec.dry_run else decision.replicas
    return fleet, decision, PodFleet(wanted, pods, decision.state)
