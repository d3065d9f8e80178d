"""Adapter between Ray Serve's autoscaler and the scaling policy: its context in, a number of replicas out.

Ray calls the policy inside the control loop of all applications, and an exception stops that loop for all of them
(Ray 2.60). So nothing is raised or awaited here, and after an error the number of replicas stays as it is.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry

from hybridserve.autoscaling.policy import Decision, PolicyState, compute_replicas
from hybridserve.autoscaling.replica_metrics import FIELDS, PREFIX, FleetMetrics, ReplicaMetrics, metrics_from_numbers
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.observability.collectors.autoscaler import record_decision
from hybridserve.observability.logging import configure
from hybridserve.observability.metrics import AutoscalerMetrics
from hybridserve.observability.metrics_server import export
from hybridserve.runtime.clock_skew import BACK_S, ClockJumpDetector
from hybridserve.settings import Settings
from hybridserve.settings.telemetry import TelemetrySection

logger = logging.getLogger("hybridserve.autoscaling")

# Interval of the replicas' reports; Ray's default of 10 s would be a sixth of a start-up.
METRICS_INTERVAL_S = 1.0
LOOK_BACK_S = 5.0


class RayAutoscalingPolicy:
    """The scaling policy as a Ray Serve policy class, created in Ray's controller and called in every control loop.

    Args:
        spec: a `ScalingSpec` as plain data. With `dry_run` decisions are only logged.
        telemetry: section `telemetry` of the settings as plain data; None exports no metrics.
        model: name that the service serves.
    """

    def __init__(self, spec: dict[str, Any], telemetry: dict[str, Any] | None = None, model: str = "") -> None:
        self.metrics = _metrics(json.dumps([telemetry, model]))
        self.spec = ScalingSpec.model_validate(spec)
        self.state = PolicyState()
        self.last: Decision | None = None
        self._problem = ""
        self._clock = ClockJumpDetector()

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Replicas for Ray's `AutoscalingContext`. The state for Ray is empty: this object has it."""
        back_s = self._clock.back_s(time.time(), time.monotonic())
        if back_s > BACK_S:
            hint = "Ray does not replace failed replicas until the clock catches up; restart the service"
            logger.error("clock_moved_backwards", extra={"seconds": round(back_s), "hint": hint})
        try:
            return self._decide(context), {}
        except Exception as error:  # never raise into the controller: see the module's docstring
            self.metrics.errors.inc()
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problem:
                logger.error("autoscaler_error", extra={"problem": problem}, exc_info=True)
                self._problem = problem
            return context.target_num_replicas, {}

    def _decide(self, context: Any) -> int:
        fleet = fleet_metrics(context)
        # Limits are read at every call: Ray changes them in place, without a new policy object.
        spec = self.spec.with_limits(
            int(context.capacity_adjusted_min_replicas), int(context.capacity_adjusted_max_replicas)
        )
        decision = compute_replicas(fleet, spec, self.state)
        self.state, self.last = decision.state, decision
        self._problem = ""
        record_decision(self.metrics, fleet, spec, decision)
        return fleet.target if spec.dry_run else decision.replicas


class SettingsAutoscalingPolicy(RayAutoscalingPolicy):
    """The same policy from a settings tree, for an `autoscaling_config` in serveConfigV2.

    The Helm chart writes Ray's limits there, which Ray changes in place; the capacity is planned here, as in
    `build_app`, because a chart cannot.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from hybridserve.deployment.resolve import resolve_deployment  # only this policy plans

        parsed = Settings.model_validate(settings)
        deployment = resolve_deployment(parsed)
        assert deployment.scaling is not None
        options = autoscaling_options(deployment.scaling, parsed.telemetry, deployment.served_name)
        super().__init__(**options["policy"]["policy_kwargs"])


@cache
def _metrics(exported: str) -> AutoscalerMetrics:
    """One per controller process, which creates a new policy object at every deployment."""
    registry = CollectorRegistry()
    metrics = AutoscalerMetrics(registry)
    telemetry, model = json.loads(exported)
    if telemetry is not None:
        try:
            section = TelemetrySection.model_validate(telemetry)
            configure(section)  # Serve sets its own loggers to WARNING, which would hide decisions
            labels = {"namespace": section.namespace, "model": model, "replica": "controller"}
            export(section, registry, labels)
        except Exception:  # a controller without metrics still scales
            logger.exception("metrics_export_failed")
    return metrics


def fleet_metrics(context: Any) -> FleetMetrics:
    """Ray's context as plain data. A replica that has not reported all of its numbers has no metrics."""
    now = float(context.current_time)
    series_by_name = context.raw_metrics or {}
    replicas: list[ReplicaMetrics] = []
    for replica_id in context.running_replicas:
        numbers: dict[str, float] = {}
        at = now
        for name in FIELDS:
            series = series_by_name.get(PREFIX + name, {}).get(replica_id)
            if series:
                numbers[name] = series[-1].value
                at = min(at, series[-1].timestamp)
        replica = metrics_from_numbers(str(replica_id), numbers)
        if replica is not None:
            replicas.append(replace(replica, age_s=replica.age_s + max(0.0, now - at)))
    return FleetMetrics(
        now=now,
        target=int(context.target_num_replicas),
        ready=len(context.running_replicas),
        queued=max(0, round(context.total_queued_requests or 0)),
        replicas=tuple(replicas),
    )


def autoscaling_options(
    spec: ScalingSpec, telemetry: TelemetrySection | None = None, model: str = ""
) -> dict[str, Any]:
    """Keyword arguments of Ray Serve's `AutoscalingConfig` for this scaling policy.

    Ray's own delays are zero under our policy: it has its own, and Ray's would be added to them.
    """
    common: dict[str, Any] = {
        "min_replicas": spec.min_replicas,
        "max_replicas": spec.max_replicas,
        "initial_replicas": max(spec.min_replicas, 1),
        "metrics_interval_s": METRICS_INTERVAL_S,
        "look_back_period_s": LOOK_BACK_S,
    }
    if spec.policy == "queue_length":
        target = spec.target_ongoing_requests or max(1.0, 0.75 * spec.capacity.state_slots)
        return common | {
            "target_ongoing_requests": target,
            "upscale_delay_s": spec.upscale_delay_s,
            "downscale_delay_s": spec.downscale_delay_s,
        }
    return common | {
        # Not used under a custom policy, but Ray refuses a config without a target.
        "target_ongoing_requests": max(1.0, float(spec.capacity.state_slots)),
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "policy": {
            "policy_function": f"{__name__}:{RayAutoscalingPolicy.__name__}",
            "policy_kwargs": {
                "spec": spec.model_dump(mode="json"),
                "telemetry": telemetry.model_dump(mode="json") if telemetry is not None else None,
                "model": model,
            },
        },
    }
