"""The table of metrics, and each exporter against it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hybridserve.autoscaling.capacity import ReplicaCapacity
from hybridserve.autoscaling.policy import Cause, PolicyState, compute_replicas
from hybridserve.autoscaling.replica_metrics import FleetMetrics, ReplicaMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.observability.collectors.autoscaler import record_decision
from hybridserve.observability.collectors.replica import ReplicaCollector
from hybridserve.observability.collectors.slo import SLOCollector
from hybridserve.observability.metrics import AutoscalerMetrics, GatewayMetrics, all_metrics
from hybridserve.settings import Settings
from support.metrics import samples


def everything(state: ReplicaCollector) -> bytes:
    """One exposition of every hybridserve metric, each with a sample."""
    registry = CollectorRegistry()
    for group in (GatewayMetrics(registry), AutoscalerMetrics(registry)):
        for metric in group.metrics():
            if metric._labelnames:
                metric.labels(*("x" for _ in metric._labelnames))
    registry.register(state)
    return generate_latest(registry)


def test_promtool_accepts_our_metrics(promtool: Path, state: ReplicaCollector) -> None:
    checked = subprocess.run([promtool, "check", "metrics"], input=everything(state), capture_output=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_every_metric_is_exported_with_type_help_and_labels(state: ReplicaCollector) -> None:
    families = {family.name: family for family in text_string_to_metric_families(everything(state).decode())}
    for spec in all_metrics():
        family = families.pop(spec.name.removesuffix("_total"))
        assert (family.type, family.documentation) == (spec.kind, spec.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels), spec.name
    left = [name for name in families if name.startswith("hybridserve_") and not name.endswith("_created")]
    assert left == []


def test_metric_names_follow_the_conventions() -> None:
    names = [spec.name for spec in all_metrics()]
    assert len(set(names)) == len(names)
    for spec in all_metrics():
        assert spec.name.startswith("hybridserve_")
        assert spec.name.endswith("_total") == (spec.kind == "counter")
        assert spec.help.endswith(".")


def test_replica_exports_cache_plan_and_license_state(state: ReplicaCollector) -> None:
    registry = CollectorRegistry()
    registry.register(state)
    seen = samples(registry)
    assert seen["hybridserve_state_slots"] == 8
    assert seen["hybridserve_state_slots_used"] == 5
    assert seen['hybridserve_kv_cache_blocks_used{type="state"}'] == 10
    assert seen['hybridserve_kv_cache_blocks_used{type="attention"}'] == 11
    assert seen['hybridserve_plan_value{field="num_gpu_blocks",source="plan"}'] == 101
    assert seen['hybridserve_plan_value{field="num_gpu_blocks",source="engine"}'] == 90
    assert seen["hybridserve_plan_mismatched_fields"] == 1
    assert seen["hybridserve_prefix_cacheable_min_tokens"] == 64
    assert seen["hybridserve_prefix_cache_ineffective"] == 0
    assert seen['hybridserve_compliance_findings{severity="error",status="PASS"}'] == 2
    assert seen['hybridserve_compliance_findings{severity="warning",status="FAIL"}'] == 1
    assert seen['hybridserve_license_review_age_seconds{license="apache-2.0",role="model"}'] == 10 * 86400
    assert seen["hybridserve_license_review_limit_seconds"] == 180 * 86400


def test_review_age_and_its_limit_follow_the_settings(state: ReplicaCollector) -> None:
    """What the runbook of the alert says to do ends the alert: a person reads the license and dates the acceptance."""
    accepted = [
        {"license": "apache-2.0", "by": "Ada Lovelace", "accepted": "2026-11-21"},
        {"license": "apache-2.0", "by": "YOUR NAME", "accepted": "2026-11-23"},
        {"license": "mit", "by": "Ada Lovelace", "accepted": "2026-11-24"},
    ]
    settings = Settings.model_validate({"license": {"accepted": accepted, "max_review_age_days": 90}})
    registry = CollectorRegistry()
    registry.register(ReplicaCollector(replace(state._facts, settings=settings), state._current, state._today))
    seen = samples(registry)
    assert seen['hybridserve_license_review_age_seconds{license="apache-2.0",role="model"}'] == 3 * 86400
    assert seen["hybridserve_license_review_limit_seconds"] == 90 * 86400


def test_prefix_cache_is_ineffective_when_no_prompt_can_hit(state: ReplicaCollector) -> None:
    off = replace(state._facts, prefix_caching=False)
    engine = {**state._facts.plan["engine"], "block_size": 1024}
    short = replace(state._facts, plan={**state._facts.plan, "engine": engine})
    assert not state._facts.prefix_cache_ineffective
    assert off.prefix_cache_ineffective
    assert off.cacheable_min == float("inf")
    assert short.prefix_cache_ineffective


def request(**changed: object) -> SimpleNamespace:
    good = {"finish_reason": "stop", "num_prompt_tokens": 10, "queued_time": 0.1, "prefill_time": 0.2,
            "mean_time_per_output_token": 0.01}  # fmt: skip
    return SimpleNamespace(**{**good, **changed})


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        ({}, "good"),
        ({"queued_time": 0.9}, "slow_first_token"),
        ({"mean_time_per_output_token": 0.06}, "slow_tokens"),
        ({"queued_time": 2.0, "mean_time_per_output_token": 0.06}, "slow_both"),
        ({"finish_reason": "error"}, "failed"),
    ],
)
def test_request_has_one_slo_outcome(outcomes: SLOCollector, changed: dict[str, object], outcome: str) -> None:
    outcomes.record(None, SimpleNamespace(finished_requests=[request(**changed)]))
    counts = samples(outcomes._metrics.requests_slo)
    assert len(counts) == 5
    assert {labels for labels, count in counts.items() if count} == {
        f'hybridserve_requests_slo_total{{outcome="{outcome}"}}'
    }


def test_aborted_requests_count_as_prompts_only(outcomes: SLOCollector) -> None:
    outcomes.record(None, SimpleNamespace(finished_requests=[request(finish_reason="abort", num_prompt_tokens=65)]))
    assert sum(samples(outcomes._metrics.requests_slo).values()) == 0
    prompts = samples(outcomes._metrics.prompts)
    assert prompts == {
        'hybridserve_prompts_total{cacheable="yes"}': 1,
        'hybridserve_prompts_total{cacheable="no"}': 0,
    }


def test_scaling_decision_is_recorded_with_limits_and_cause() -> None:
    registry = CollectorRegistry()
    metrics = AutoscalerMetrics(registry)
    capacity = ReplicaCapacity(4, 100, 64, 2, 1, 1e12)
    spec = ScalingSpec(capacity=capacity, min_replicas=1, max_replicas=3, dry_run=True)
    busy = ReplicaMetrics("a", running=4, waiting=30, arrived=34)
    state, seen = PolicyState(), None
    for second in range(20):
        seen = FleetMetrics(now=float(second), target=1, ready=1, queued=0, replicas=(busy,))
        decision = compute_replicas(seen, spec, state)
        state = decision.state
        record_decision(metrics, seen, spec, decision)
    read = samples(registry)
    assert read["hybridserve_autoscaler_desired_replicas"] > 1
    assert read["hybridserve_autoscaler_target_replicas"] == 1
    assert read['hybridserve_autoscaler_replica_limit{limit="max"}'] == 3
    assert read["hybridserve_autoscaler_dry_run"] == 1
    decisions = {
        name: value for name, value in read.items() if name.startswith("hybridserve_autoscaler_decisions_total")
    }
    assert sum(decisions.values()) == 20
    assert all(any(f'cause="{cause}"' in name for cause in Cause) for name in decisions)
