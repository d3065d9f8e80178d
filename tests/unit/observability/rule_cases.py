"""For each alert: series with which it must fire, and series with which it must not.

Values are promtool's: ``1+2x60`` begins at 1 and grows by 2 per minute for an hour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WHO = 'namespace="n",model="m",replica="r"'
CONTROLLER = 'namespace="n",model="m",replica="controller"'
# Samples of an hour, one a minute; of a day, one in two minutes.
HOUR, DAYS = 60, 24 * 30


@dataclass(frozen=True, slots=True)
class Case:
    """Series by name, and the severities that fire at `at`."""

    alert: str
    fires: tuple[str, ...]
    series: dict[str, str]
    at: str = "1h"


def latency(metric: str, bucket: str, slow: int, minutes: int) -> dict[str, str]:
    """100 requests per minute, of which `slow` are beyond the target."""
    return {
        f"{metric}_count{{{WHO}}}": f"0+100x{minutes}",
        f'{metric}_bucket{{{WHO},le="{bucket}"}}': f"0+{100 - slow}x{minutes}",
    }


def availability(failed: float, minutes: int, where: str = "rejected") -> dict[str, str]:
    """100 requests per minute, of which `failed` are server errors."""
    reason = 'reason="guard_unavailable"'
    admitted = 100 - failed if where == "rejected" else 100
    series = {f'hybridserve_requests_admitted_total{{{WHO},route="chat"}}': f"0+{admitted}x{minutes}"}
    if where == "rejected":
        series[f'hybridserve_requests_rejected_total{{{WHO},route="chat",{reason}}}'] = f"0+{failed}x{minutes}"
    else:
        series[f'hybridserve_streams_aborted_total{{{WHO},reason="engine_error"}}'] = f"0+{failed}x{minutes}"
    return series


def slow_requests(slow: int, minutes: int) -> dict[str, str]:
    return {
        f'hybridserve_requests_slo_total{{{WHO},outcome="good"}}': f"0+{100 - slow}x{minutes}",
        f'hybridserve_requests_slo_total{{{WHO},outcome="slow_tokens"}}': f"0+{slow}x{minutes}",
    }


def slots(used: int, waiting: int, usage: float) -> dict[str, str]:
    """A replica of 8 slots."""
    return {
        f"hybridserve_state_slots{{{WHO}}}": "8x60",
        f"hybridserve_state_slots_used{{{WHO}}}": f"{used}x60",
        f'vllm:num_requests_waiting_by_reason{{{WHO},engine="0",reason="capacity"}}': f"{waiting}x60",
        f'vllm:kv_cache_usage_perc{{{WHO},engine="0"}}': f"{usage}x60",
    }


def cache(hits: int, reusable: int, inert: int = 0) -> dict[str, str]:
    """Tokens a minute."""
    return {
        f"hybridserve_prefix_hit_tokens_total{{{WHO}}}": f"0+{hits}x180",
        f"hybridserve_prefix_reusable_tokens_total{{{WHO}}}": f"0+{reusable}x180",
        f"hybridserve_prefix_cache_ineffective{{{WHO}}}": f"{inert}x180",
    }


def verdicts(errors: int) -> dict[str, str]:
    labels = f'{WHO},guard="rules",stage="input"'
    return {
        f'hybridserve_guard_verdicts_total{{{labels},outcome="allow"}}': f"0+{100 - errors}x60",
        f'hybridserve_guard_verdicts_total{{{labels},outcome="error"}}': f"0+{errors}x60",
    }


def gauge(name: str, value: str, labels: str = WHO) -> dict[str, str]:
    return {f"{name}{{{labels}}}": f"{value}x60"}


def no_metrics(replicas: int) -> dict[str, str]:
    return gauge("hybridserve_autoscaler_replicas_without_metrics", str(replicas), CONTROLLER)


def limits(demand: float, highest: int) -> dict[str, str]:
    return {
        f'hybridserve_autoscaler_demand_replicas{{{CONTROLLER},resource="state_slots"}}': f"{demand}x60",
        f'hybridserve_autoscaler_replica_limit{{{CONTROLLER},limit="max"}}': f"{highest}x60",
    }


def sizes(ready: int, target: int) -> dict[str, str]:
    return gauge("hybridserve_autoscaler_ready_replicas", f"{ready}", CONTROLLER) | gauge(
        "hybridserve_autoscaler_target_replicas", f"{target}", CONTROLLER
    )


def lost() -> dict[str, str]:
    """A replica that responds for 50 minutes and then no more."""
    return {UP: "1x50 0x10", BUILD: "1x50 stale"}


def component(metric: str, *lives: str) -> dict[str, str]:
    """Metric of a component of Ray Serve, one process after the other."""
    return {
        f'{metric}{{namespace="n",exporter="ray",NodeAddress="10.0.0.1",WorkerId="{number}"}}': life
        for number, life in enumerate(lives)
    }


def tokens(running: int, generated: int) -> dict[str, str]:
    return {
        f'vllm:num_requests_running{{{WHO},engine="0"}}': f"{running}x60",
        f'vllm:generation_tokens_total{{{WHO},engine="0"}}': f"0+{generated}x60",
        f'vllm:prompt_tokens_total{{{WHO},engine="0"}}': "100x60",
    }


def release(**kubernetes: str) -> dict[str, str]:
    """A release of the chart with exporting replicas, and series of kube-state-metrics, the kubelet or KubeRay."""
    return {INFO: "1x60", BUILD.replace("{", '{release="rel",'): "1x60"} | {
        KUBERNETES[name]: value for name, value in kubernetes.items()
    }


def of_release(series: dict[str, str], name: str) -> dict[str, str]:
    """The series in a release of this name, with pods of its own."""
    return {
        re.sub(r'replica="', f'replica="{name}-', labelled).replace('"rel', f'"{name}'): values
        for text, values in series.items()
        for labelled in [text if '"rel' in text else text.replace("{", '{release="rel",', 1)]
    }


TTFT, TPOT = "vllm:time_to_first_token_seconds", "vllm:request_time_per_output_token_seconds"
FINDING = 'hybridserve_compliance_findings{%s,severity="%s",status="%s"}'
AGE = f'hybridserve_license_review_age_seconds{{{WHO},license="apache-2.0",role="model"}}'
REVIEW_LIMIT = f"hybridserve_license_review_limit_seconds{{{WHO}}}"
LOOPS = "ray_serve_controller_num_control_loops"
UP = f'up{{job="n/podmonitor",{WHO}}}'
BUILD = f"hybridserve_build_info{{{WHO}}}"
INFO = 'hybridserve:release_info{namespace="n",release="rel",model="m",claim="rel-weights"}'
VOLUME = '{namespace="n",persistentvolumeclaim="rel-weights"}'
KUBERNETES = {
    "available": 'kube_deployment_status_replicas_available{namespace="n",deployment="rel"}',
    "wanted": 'kube_deployment_spec_replicas{namespace="n",deployment="rel"}',
    "guards": 'kube_deployment_status_replicas_available{namespace="n",deployment="rel-guard"}',
    "guards_wanted": 'kube_deployment_spec_replicas{namespace="n",deployment="rel-guard"}',
    "not_ready": 'kuberay_service_condition_ready{namespace="n",name="rel",condition="false"}',
    "ready": 'kuberay_service_condition_ready{namespace="n",name="rel",condition="true"}',
    "allowed": 'kube_poddisruptionbudget_status_pod_disruptions_allowed{namespace="n",poddisruptionbudget="rel"}',
    "free": f"kubelet_volume_stats_available_bytes{VOLUME}",
    "size": f"kubelet_volume_stats_capacity_bytes{VOLUME}",
    "pending": f'kube_persistentvolumeclaim_status_phase{VOLUME[:-1]},phase="Pending"}}',
}
GONE = {INFO: "1x60", BUILD.replace("{", '{release="rel",'): "1x40 stale"}
TARGET = f'hybridserve_autoscaler_target_replicas{{release="rel",{CONTROLLER}}}'
ERRORS = {f"hybridserve_autoscaler_errors_total{{{CONTROLLER}}}": "0+60x60"}
BURNS = ("HybridServeTTFTBudgetBurn", "HybridServeInterTokenBudgetBurn", "HybridServeAvailabilityBudgetBurn",
         "HybridServeAttainmentBudgetBurn")  # fmt: skip

CASES = (
    # 95 % good: 90 % slow burns 18 times too fast, 30 % six times (for days: a ticket), 4 % less than allowed.
    Case(BURNS[0], ("page", "ticket"), latency(TTFT, "2.5", 90, HOUR)),
    Case(BURNS[0], ("ticket",), latency(TTFT, "2.5", 20, DAYS), "1d"),
    Case(BURNS[0], (), latency(TTFT, "2.5", 4, DAYS), "1d"),
    # Three slow requests in an hour do not page.
    Case(BURNS[0], (), {f"{TTFT}_count{{{WHO}}}": "0+0.1x60", f'{TTFT}_bucket{{{WHO},le="2.5"}}': "0x60"}),
    Case(BURNS[1], ("page", "ticket"), latency(TPOT, "0.05", 90, HOUR)),
    Case(BURNS[1], ("ticket",), latency(TPOT, "0.05", 20, DAYS), "1d"),
    Case(BURNS[1], (), latency(TPOT, "0.05", 4, DAYS), "1d"),
    # 99.9 % good: one in fifty.
    Case(BURNS[2], ("page", "ticket"), availability(2, HOUR)),
    Case(BURNS[2], ("page", "ticket"), availability(2, HOUR, "cut")),
    # One in 250 burns four times too fast: used up in a week, a ticket.
    Case(BURNS[2], ("ticket",), availability(0.4, DAYS), "1d"),
    Case(BURNS[2], (), availability(0, HOUR)),
    # Client errors are no outage.
    Case(
        BURNS[2],
        (),
        {
            f'hybridserve_requests_admitted_total{{{WHO},route="chat"}}': "0+50x60",
            f'hybridserve_requests_rejected_total{{{WHO},route="chat",reason="guard_blocked_input"}}': "0+50x60",
        },
    ),
    # 90 % good: the factor 14.4 would be more than all requests; nine in ten page.
    Case(BURNS[3], ("page", "ticket"), slow_requests(95, HOUR)),
    Case(BURNS[3], ("ticket",), slow_requests(40, DAYS), "1d"),
    Case(BURNS[3], (), slow_requests(8, DAYS), "1d"),
    Case("HybridServeStateSlotsFull", ("ticket",), slots(8, 3, 0.01)),
    Case("HybridServeStateSlotsFull", (), slots(8, 0, 0.01)),
    Case("HybridServeStateSlotsFull", (), slots(4, 3, 0.01)),
    Case("HybridServeHeadOfLineBlocking", ("ticket",), slots(4, 3, 0.2)),
    Case("HybridServeHeadOfLineBlocking", (), slots(4, 3, 0.97)),
    Case("HybridServeHeadOfLineBlocking", (), slots(8, 3, 0.2)),
    Case("HybridServeHighPreemptionRate", ("ticket",), {f'vllm:num_preemptions_total{{{WHO},engine="0"}}': "0+12x60"}),
    Case("HybridServeHighPreemptionRate", (), {f'vllm:num_preemptions_total{{{WHO},engine="0"}}': "0+3x60"}),
    Case("HybridServePrefixCacheIneffective", ("info",), cache(5, 10_000), "3h"),
    Case("HybridServePrefixCacheIneffective", ("info",), cache(0, 0, inert=1), "3h"),
    Case("HybridServePrefixCacheIneffective", (), cache(6_000, 10_000), "3h"),
    Case("HybridServePrefixCacheIneffective", (), cache(0, 100), "3h"),
    Case("HybridServePlanDrift", ("ticket",), gauge("hybridserve_plan_mismatched_fields", "2")),
    Case("HybridServePlanDrift", (), gauge("hybridserve_plan_mismatched_fields", "0")),
    Case("HybridServeGuardDown", ("page",), verdicts(20)),
    Case("HybridServeGuardDown", (), verdicts(1)),
    Case("HybridServeComplianceLapsed", ("ticket",), gauge("hybridserve_compliance_lapses", "2")),
    Case("HybridServeComplianceLapsed", (), gauge("hybridserve_compliance_lapses", "0")),
    Case("HybridServeComplianceClosed", ("page",), gauge("hybridserve_compliance_closed", "1")),
    Case("HybridServeComplianceClosed", (), gauge("hybridserve_compliance_closed", "0")),
    Case("HybridServeLimitsLedgerLost", ("ticket",), gauge("hybridserve_limits_ledger_lost", "1")),
    Case("HybridServeLimitsLedgerLost", (), gauge("hybridserve_limits_ledger_lost", "0")),
    Case("HybridServeKeysFileBroken", ("ticket",), gauge("hybridserve_keys_file_broken", "1")),
    Case("HybridServeKeysFileBroken", (), gauge("hybridserve_keys_file_broken", "0")),
    Case("HybridServeGuardCanaryFailing", ("page",), gauge("hybridserve_guard_canary_ok", "0", f'{WHO},kind="block"')),
    Case("HybridServeGuardCanaryFailing", (), gauge("hybridserve_guard_canary_ok", "1", f'{WHO},kind="block"')),
    Case("HybridServeEngineUnverified", ("page",), gauge("hybridserve_verify_passed", "0", f'{WHO},against="itself"')),
    Case("HybridServeEngineUnverified", (), gauge("hybridserve_verify_passed", "1", f'{WHO},against="itself"')),
    Case("HybridServeComplianceFail", ("ticket",), {FINDING % (WHO, "error", "FAIL"): "1x60"}),
    Case("HybridServeComplianceFail", (), {FINDING % (WHO, "warning", "FAIL"): "3x60"}),
    Case("HybridServeComplianceFail", (), {FINDING % (WHO, "error", "PASS"): "9x60"}),
    Case("HybridServeLicenseReviewExpired", ("info",), {AGE: "864001x120", REVIEW_LIMIT: "864000x120"}, "2h"),
    Case("HybridServeLicenseReviewExpired", (), {AGE: "864000x120", REVIEW_LIMIT: "864000x120"}, "2h"),
    Case("HybridServeAutoscalerAtLimit", ("ticket",), limits(3.4, 3)),
    Case("HybridServeAutoscalerAtLimit", (), limits(2.9, 3)),
    Case("HybridServeScaleDownStuck", ("ticket",), sizes(3, 2)),
    Case("HybridServeScaleDownStuck", (), sizes(2, 2)),
    Case("HybridServeScaleDownStuck", (), sizes(1, 2)),
    Case("HybridServeAutoscalerMetricsMissing", ("ticket",), no_metrics(1)),
    Case("HybridServeAutoscalerMetricsMissing", ("ticket",), ERRORS),
    Case("HybridServeAutoscalerMetricsMissing", (), no_metrics(0)),
    Case("HybridServeEngineDown", ("page",), lost()),
    Case("HybridServeEngineDown", ("page",), lost() | sizes(1, 2)),
    Case("HybridServeEngineDown", (), {UP: "1x60", BUILD: "1x60"}),
    # A port of the pod that no replica uses; a replica removed by scale-down.
    Case("HybridServeEngineDown", (), {UP: "0x60"}),
    Case("HybridServeEngineDown", (), lost() | gauge("hybridserve_autoscaler_target_replicas", "2x50 1", CONTROLLER)),
    Case("HybridServeReplicasMissing", ("page",), sizes(1, 2)),
    Case("HybridServeReplicasMissing", (), sizes(2, 2)),
    # A replica that is starting is not missing.
    Case(
        "HybridServeReplicasMissing",
        (),
        {
            f"hybridserve_autoscaler_ready_replicas{{{CONTROLLER}}}": "1x60",
            f"hybridserve_autoscaler_target_replicas{{{CONTROLLER}}}": "1x50 2x10",
        },
    ),
    Case("HybridServeReplicaLost", ("info",), {UP: "1x58 0", BUILD: "1x58"}),
    # Its replacement has removed the target.
    Case("HybridServeReplicaLost", ("info",), {UP: "1x58 0 stale", BUILD: "1x58"}),
    Case("HybridServeReplicaLost", (), {UP: "1x50 0 stale", BUILD: "1x50"}),
    Case("HybridServeReplicaLost", (), {UP: "1x60", BUILD: "1x60"}),
    Case("HybridServeProxyReplaced", ("info",), component("ray_serve_haproxy_process_count", "1x58 stale", "_x58 1 1")),
    Case("HybridServeProxyReplaced", ("info",), component("ray_serve_num_ongoing_http_requests", "3x59", "_x58 3 3")),
    Case("HybridServeProxyReplaced", (), component("ray_serve_haproxy_process_count", "1x60")),
    # Replaced long ago.
    Case("HybridServeProxyReplaced", (), component("ray_serve_haproxy_process_count", "1x50 stale", "_x50 1x10")),
    Case("HybridServeControllerReplaced", ("info",), component(LOOPS, "0+9x58 stale", "_x58 0 9")),
    Case("HybridServeControllerReplaced", (), component(LOOPS, "0+9x60")),
    Case("HybridServeEngineStalled", ("page",), {f"hybridserve_engine_stats_age_seconds{{{WHO}}}": "0x57 30 90 150"}),
    Case("HybridServeEngineStalled", (), {f"hybridserve_engine_stats_age_seconds{{{WHO}}}": "0 9 0x58"}),
    Case("HybridServeEngineStalled", ("page",), tokens(2, 0)),
    Case("HybridServeEngineStalled", (), tokens(2, 50)),
    Case("HybridServeEngineStalled", (), tokens(0, 0)),
    Case("HybridServeMetricsMissing", ("page",), {}),
    Case("HybridServeMetricsMissing", (), {BUILD: "1x60"}),
    # Deleted pods are no targets: only the release's own series is left. Scaled to zero, there should be none.
    Case("HybridServeModelMissing", ("page",), GONE),
    Case("HybridServeModelMissing", (), release()),
    Case("HybridServeModelMissing", (), GONE | {TARGET: "0x60"}),
    # It has not started yet.
    Case("HybridServeModelMissing", (), {INFO: "1x60"}),
    Case("HybridServePodsMissing", ("page",), release(available="2x40 1x20", wanted="2x60")),
    Case("HybridServePodsMissing", ("page",), release(guards="0x60", guards_wanted="1x60")),
    Case("HybridServePodsMissing", (), release(available="2x50 1x10", wanted="2x60")),
    Case("HybridServePodsMissing", (), release(available="2x60", wanted="2x60")),
    # Another Deployment of the namespace.
    Case("HybridServePodsMissing", (), {KUBERNETES["available"]: "1x60", KUBERNETES["wanted"]: "2x60"}),
    Case("HybridServeRayServiceNotReady", ("page",), release(ready="1x40 stale", not_ready="_x40 1x20")),
    Case("HybridServeRayServiceNotReady", (), release(ready="1x60")),
    Case("HybridServeDisruptionsBlocked", ("ticket",), release(allowed="0x60")),
    Case("HybridServeDisruptionsBlocked", (), release(allowed="1x60")),
    Case("HybridServeVolumeFull", ("ticket",), release(free="5x60", size="100x60")),
    Case("HybridServeVolumeFull", (), release(free="30x60", size="100x60")),
    Case("HybridServeClaimPending", ("ticket",), release(pending="1x60")),
    Case("HybridServeClaimPending", (), release(pending="0x60")),
)  # fmt: skip
