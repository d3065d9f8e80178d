"""Between Ray Serve's autoscaler and the scaling law: its context in, a number of replicas out.

Ray calls the policy inside the control loop of all applications, and an exception that leaves it stops that loop for
every one of them (Ray 2.60). So nothing is raised here, nothing is waited for, and in doubt the number stays as it is.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry

from hybridserve.autoscaling.capacity import UNLIMITED_PREFILL, ReplicaCapacity
from hybridserve.autoscaling.policy import Decision, PolicyState, compute_replicas
from hybridserve.autoscaling.replica_metrics import FIELDS, PREFIX, FleetMetrics, ReplicaMetrics, metrics_from_numbers
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.engine.spec import replica_capacity
from hybridserve.gateway.state import served_name
from hybridserve.observability.collectors.autoscaler import record_decision
from hybridserve.observability.logging import configure
from hybridserve.observability.metrics import AutoscalerMetrics
from hybridserve.observability.metrics_server import export
from hybridserve.runtime.clock_skew import BACK_S, ClockJumpDetector
from hybridserve.settings import Settings
from hybridserve.settings.scaling import ScalingSection
from hybridserve.settings.telemetry import TelemetrySection

logger = logging.getLogger("hybridserve.autoscaling")

# So often replicas report; Ray's default of 10 s would be a sixth of a start-up.
METRICS_INTERVAL_S = 1.0
LOOK_BACK_S = 5.0


class RayAutoscalingPolicy:
    """The law as a Ray Serve policy class. Ray makes one in its controller and calls it in every control loop.

    Args:
        spec: fields of `ScalingSpec` as plain data, `capacity` as a dict of its own.
        dry_run: log decisions, change nothing.
        telemetry: section `telemetry` of the settings as plain data; None shows nothing.
        model: name that the service serves.
    """

    def __init__(
        self, spec: dict[str, Any], dry_run: bool = False, telemetry: dict[str, Any] | None = None, model: str = ""
    ) -> None:
        self.metrics = _metrics(json.dumps([telemetry, model]))
        self.spec = ScalingSpec(**{**spec, "capacity": ReplicaCapacity(**spec["capacity"])})
        self.dry_run = dry_run
        self.state = PolicyState()
        self.last: Decision | None = None
        self._problem = ""
        self._clock = ClockJumpDetector()

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Replicas for Ray's `AutoscalingContext`, and no state for Ray to keep: it lives here."""
        back = self._clock.back_s(time.time(), time.monotonic())
        if back > BACK_S:
            logger.error(
                "event=clock_moved_backwards seconds=%.0f: Ray replaces no dead replica until then; restart", back
            )
        try:
            return self._decide(context), {}
        except Exception as error:  # Never out of here: see the module's docstring.
            self.metrics.errors.inc()
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problem:
                logger.error("event=autoscaler_error problem=%r", problem, exc_info=True)
                self._problem = problem
            return context.target_num_replicas, {}

    def _decide(self, context: Any) -> int:
        seen = observe(context)
        # Bounds are read at every call: Ray changes them in place, without a new policy object.
        spec = replace(
            self.spec,
            min_replicas=int(context.capacity_adjusted_min_replicas),
            max_replicas=int(context.capacity_adjusted_max_replicas),
        )
        decision = compute_replicas(seen, spec, self.state)
        self.state, self.last = decision.state, decision
        self._problem = ""
        record_decision(self.metrics, seen, spec, decision, self.dry_run)
        if decision.replicas != seen.target:
            event = "scale_dry_run" if self.dry_run else "scale"
            logger.info("event=%s from=%d to=%d reason=%r", event, seen.target, decision.replicas, decision.reason)
        return seen.target if self.dry_run else decision.replicas


class SettingsAutoscalingPolicy(RayAutoscalingPolicy):
    """The same policy from a settings tree, for an `autoscaling_config` in serveConfigV2.

    The Helm chart writes Ray's bounds there, which Ray changes in place; capacity is planned here, as it is in
    `build_app`, because a chart cannot.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        parsed = Settings.model_validate(settings)
        options = autoscaling_options(parsed.scaling, replica_capacity(parsed), parsed.telemetry, served_name(parsed))
        super().__init__(**options["policy"]["policy_kwargs"])


@cache
def _metrics(shown: str) -> AutoscalerMetrics:
    """One for the life of Ray's controller, which makes a new policy object at every deployment."""
    registry = CollectorRegistry()
    metrics = AutoscalerMetrics(registry)
    telemetry, model = json.loads(shown)
    if telemetry is not None:
        try:
            section = TelemetrySection.model_validate(telemetry)
            configure(section)  # Serve keeps its own loggers at WARNING: a decision would be said to nobody
            labels = {"namespace": section.namespace, "model": model, "replica": "controller"}
            export(section, registry, labels)
        except Exception:  # A controller without metrics still scales.
            logger.exception("event=no_scaling_metrics")
    return metrics


def observe(context: Any) -> FleetMetrics:
    """Ray's context as plain data. A replica that has not reported all of its numbers counts as silent."""
    now = float(context.current_time)
    metrics = context.raw_metrics or {}
    readings: list[ReplicaMetrics] = []
    for replica in context.running_replicas:
        numbers: dict[str, float] = {}
        at = now
        for name in FIELDS:
            series = metrics.get(PREFIX + name, {}).get(replica)
            if series:
                numbers[name] = series[-1].value
                at = min(at, series[-1].timestamp)
        reading = metrics_from_numbers(str(replica), numbers)
        if reading is not None:
            readings.append(replace(reading, age_s=reading.age_s + max(0.0, now - at)))
    return FleetMetrics(
        now=now,
        target=int(context.target_num_replicas),
        ready=len(context.running_replicas),
        queued=max(0, round(context.total_queued_requests or 0)),
        readings=tuple(readings),
    )


def autoscaling_options(
    section: ScalingSection, capacity: ReplicaCapacity, telemetry: TelemetrySection | None = None, model: str = ""
) -> dict[str, Any]:
    """Keyword arguments of Ray Serve's `AutoscalingConfig` for these settings.

    Ray's own delays are zero under our policy: it has its own, and Ray's would only come on top.
    """
    common: dict[str, Any] = {
        "min_replicas": section.min_replicas,
        "max_replicas": section.max_replicas,
        "initial_replicas": max(section.min_replicas, 1),
        "metrics_interval_s": METRICS_INTERVAL_S,
        "look_back_period_s": LOOK_BACK_S,
    }
    if section.policy == "queue_length":
        target = section.target_ongoing_requests or max(1.0, 0.75 * capacity.state_slots)
        return common | {
            "target_ongoing_requests": target,
            "upscale_delay_s": section.upscale_delay_s,
            "downscale_delay_s": section.downscale_delay_s,
        }
    spec = {
        "capacity": asdict(replace(capacity, prefill_tokens_per_s=section.prefill_tokens_per_s or UNLIMITED_PREFILL)),
        "start_up_s": section.start_up_s,
        "ttft_s": section.ttft_s,
        "ttft_per_prompt_token_s": section.ttft_per_prompt_token_s,
        "inter_token_s": section.inter_token_s,
        "attainment": section.attainment,
        "idle_s": section.idle_s,
        "stale_s": section.stale_s,
        "memory_s": section.memory_s,
        "calendar_s": section.calendar_s,
    }
    return common | {
        # Ray multiplies nothing with it under a custom policy, but refuses a config without a target.
        "target_ongoing_requests": max(1.0, float(capacity.state_slots)),
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "policy": {
            "policy_function": f"{__name__}:{RayAutoscalingPolicy.__name__}",
            "policy_kwargs": {
                "spec": spec,
                "dry_run": section.dry_run,
                "telemetry": telemetry.model_dump(mode="json") if telemetry is not None else None,
                "model": model,
            },
        },
    }
