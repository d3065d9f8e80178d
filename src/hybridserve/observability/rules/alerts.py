"""All alerts: expression, severity, annotations and runbook."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hybridserve.observability.rules.slo import BY, burn_alerts
from hybridserve.settings.telemetry import TelemetrySection

RUNBOOKS = "https://github.com/hybridserve/hybridserve/blob/main/docs/runbooks"

_CAPACITY = 'vllm:num_requests_waiting_by_reason{reason="capacity"}'
# A target counts by what it exported, not by its address: in a pod unused ports are targets too. A replica that was
# removed by scale-down is not down.
_WAS_A_REPLICA = (
    f" == 0 and on ({BY}, replica) "
    f"max by ({BY}, replica) (max_over_time(hybridserve_build_info[15m])) "
    f"unless on ({BY}) "
    f"max by ({BY}) (max_over_time(hybridserve_autoscaler_target_replicas[15m])) "
    f"> on ({BY}) max by ({BY}) (hybridserve_autoscaler_target_replicas)"
)


# The chart records this series for each release with a PodMonitor: what should exist, also when it exports nothing.
RELEASE = "hybridserve:release_info"


def _of_releases(kubernetes: str, label: str) -> str:
    """Values of the Kubernetes objects that are named after a release, with its model; those of its guard, too."""
    named = f'label_replace({kubernetes}, "release", "$1", "{label}", "(.+?)(-guard|-autoscaler)?")'
    return f"{named} * on (namespace, release) group_left (model) {RELEASE}"


def _of_claims(kubernetes: str) -> str:
    """Values of the claims that releases name, which two of them may share."""
    label = "persistentvolumeclaim"
    ours = f'label_replace({RELEASE}, "{label}", "$1", "claim", "(.+)")'
    return f"{ours} * on (namespace, {label}) group_left () ({kubernetes})"


def _replaced(metric: str) -> str:
    """True if two processes of a node exported within two minutes what only one of them does at a time."""
    each = f"count by (namespace, release, NodeAddress, WorkerId) (last_over_time({metric}[2m]))"
    return f"count by (namespace, release, NodeAddress) ({each}) > 1"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        hold: how long it must be true.
        runbook: name of the page under docs/runbooks.
        expr: PromQL.
    """

    name: str
    hold: str
    severity: Literal["page", "ticket", "info"]
    runbook: str
    expr: str
    summary: str
    description: str

    @property
    def runbook_url(self) -> str:
        return f"{RUNBOOKS}/{self.runbook}.md"

    @property
    def after(self) -> str:
        """How long it must be true, for people."""
        return "immediately" if self.hold == "0m" else self.hold


def without_templates(text: str, write: Callable[[str], str]) -> str:
    """An annotation for people: `write` gives the text of a label, or of `value`, that Prometheus fills in."""
    return re.sub(r"\{\{ \$(?:labels\.)?(\w+)(?: \| \w+)? \}\}", lambda found: write(found[1]), text)


def by_text(section: TelemetrySection) -> dict[tuple[str, str], list[Alert]]:
    """Alerts by name and summary; those of one group differ in severity."""
    found: dict[tuple[str, str], list[Alert]] = {}
    for alert in alerts(section):
        found.setdefault((alert.name, alert.summary), []).append(alert)
    return found


def alerts(section: TelemetrySection) -> tuple[Alert, ...]:
    """All alerts, burn rates first."""
    return burn_rate_alerts(section) + STATE + KUBERNETES


def burn_rate_alerts(section: TelemetrySection) -> tuple[Alert, ...]:
    """The alerts of the objectives, with the targets of the settings."""
    lasts = {"page": "The budget will be used up within days.", "ticket": "The budget will not last for the period."}
    return tuple(
        Alert(
            slo.alert,
            "0m",
            severity,
            f"{slo.name}-budget-burn",
            expr,
            f"{{{{ $labels.model }}}} uses its {slo.name} error budget too fast",
            f"Objective: {slo.goal}, for {slo.objective:.4g} of requests. {lasts[severity]}",
        )
        for slo, severity, expr in burn_alerts(section)
    )


STATE = (
    Alert(
        "HybridServeStateSlotsFull", "5m", "ticket", "state-slots-full",
        f"hybridserve_state_slots_used / hybridserve_state_slots >= 0.95 and on ({BY}, replica) "
        f"sum by ({BY}, replica) ({_CAPACITY}) > 0",
        "{{ $labels.replica }}: all state slots are in use and requests wait",
        "Each running sequence needs a slot for its recurrent state; vLLM's KV-cache usage may still be near zero.",
    ),
    Alert(
        "HybridServeHeadOfLineBlocking", "5m", "ticket", "head-of-line-blocking",
        f"sum by ({BY}, replica) ({_CAPACITY}) > 0 "
        f"and on ({BY}, replica) vllm:kv_cache_usage_perc < 0.9 "
        f"and on ({BY}, replica) hybridserve_state_slots_used / hybridserve_state_slots < 0.95",
        "{{ $labels.replica }}: requests wait although state slots and KV-cache blocks are free",
        "The request at the head of the queue does not fit and blocks the requests behind it.",
    ),
    Alert(
        "HybridServeHighPreemptionRate", "10m", "ticket", "high-preemption-rate",
        f"sum by ({BY}, replica) (rate(vllm:num_preemptions_total[5m])) > 0.1",
        "{{ $labels.replica }} is preempting running requests",
        "Each preempted request is computed again from the start.",
    ),
    Alert(
        "HybridServePrefixCacheIneffective", "1h", "info", "prefix-cache-ineffective",
        f"(sum by ({BY}) (rate(hybridserve_prefix_hit_tokens_total[1h])) "
        f"/ sum by ({BY}) (rate(hybridserve_prefix_reusable_tokens_total[1h])) < 0.5 "
        f"and sum by ({BY}) (increase(hybridserve_prefix_reusable_tokens_total[1h])) > 100000) "
        f"or max by ({BY}) (hybridserve_prefix_cache_ineffective) > 0",
        "{{ $labels.model }}: the prefix cache misses most of the tokens that could be reused",
        "hybridserve_prefix_lost_tokens_total shows the causes.",
    ),
    Alert(
        "HybridServePlanDrift", "5m", "ticket", "plan-drift",
        "hybridserve_plan_mismatched_fields > 0",
        "{{ $labels.replica }}: the engine's cache differs from the plan",
        "{{ $value }} fields differ; GET /plan lists them. Scaling and admission rely on the plan.",
    ),
    Alert(
        "HybridServeGuardDown", "2m", "page", "guard-down",
        f'sum by ({BY}, guard) (rate(hybridserve_guard_verdicts_total{{outcome="error"}}[5m])) '
        f"/ sum by ({BY}, guard) (rate(hybridserve_guard_verdicts_total[5m])) > 0.05",
        "{{ $labels.guard }}: guard checks fail",
        "{{ $value | humanizePercentage }} of guard checks return an error; those requests are rejected with 503.",
    ),
    Alert(
        "HybridServeComplianceLapsed", "1m", "ticket", "compliance-lapsed",
        "hybridserve_compliance_lapses > 0",
        "{{ $labels.replica }}: {{ $value }} compliance checks no longer pass",
        "The service would not start now. It closes license.grace_days after the day on which each began to fail.",
    ),
    Alert(
        "HybridServeComplianceClosed", "0m", "page", "compliance-lapsed",
        "hybridserve_compliance_closed == 1",
        "{{ $labels.replica }}: requests are rejected, because compliance checks have lapsed",
        "The grace period of a failed check is over; all requests get 503 compliance_closed.",
    ),
    Alert(
        "HybridServeLimitsLedgerLost", "1m", "ticket", "limits-ledger-lost",
        "hybridserve_limits_ledger_lost == 1",
        "{{ $labels.replica }}: the ledger of shared limits cannot be reached",
        "Each replica applies an equal share of a key's limits; under uneven load a key gets less than its limit.",
    ),
    Alert(
        "HybridServeKeysFileBroken", "1m", "ticket", "keys-file-broken",
        "hybridserve_keys_file_broken == 1",
        "{{ $labels.replica }}: the key file is malformed or missing",
        "Keys without a line are revoked, malformed lines and new keys wait until the file is correct.",
    ),
    Alert(
        "HybridServeGuardCanaryFailing", "2m", "page", "guard-canary-failing",
        "hybridserve_guard_canary_ok == 0",
        "{{ $labels.replica }}: the guard self-test {{ $labels.kind }} fails",
        "The guard gives a wrong verdict; after guard.canary_failures failed tests the replica rejects all requests.",
    ),
    Alert(
        "HybridServeEngineUnverified", "0m", "page", "engine-unverified",
        "last_over_time(hybridserve_verify_passed[10m]) == 0",
        "{{ $labels.replica }}: the engine failed its numeric check and serves nothing",
        "Its log-probabilities are not those of the {{ $labels.against }}; a rollout of it does not continue.",
    ),
    Alert(
        "HybridServeComplianceFail", "1m", "ticket", "compliance-fail",
        f"sum by ({BY}) (max by ({BY}, severity) "
        '(hybridserve_compliance_findings{severity="error", status="FAIL"})) > 0',
        "{{ $labels.model }} runs with failed compliance checks",
        "{{ $value }} findings of severity error; GET /compliance lists each with its remedy.",
    ),
    Alert(
        "HybridServeLicenseReviewExpired", "1h", "info", "license-review-expired",
        f"max by ({BY}, license) (hybridserve_license_review_age_seconds "
        f"> on ({BY}, replica) group_left () hybridserve_license_review_limit_seconds)",
        "{{ $labels.license }} was last reviewed longer ago than license.max_review_age_days",
        "Some licenses require a regular review.",
    ),
    Alert(
        "HybridServeAutoscalerAtLimit", "10m", "ticket", "autoscaler-at-limit",
        f"max by ({BY}) (hybridserve_autoscaler_demand_replicas) "
        f'> on ({BY}) max by ({BY}) (hybridserve_autoscaler_replica_limit{{limit="max"}})',
        "{{ $labels.model }} needs more replicas than scaling.max_replicas",
        "The demand is {{ $value | humanize }} replicas, more than scaling.max_replicas allows.",
    ),
    Alert(
        "HybridServeScaleDownStuck", "15m", "ticket", "scale-down-stuck",
        f"max by ({BY}) (hybridserve_autoscaler_ready_replicas) "
        f"> on ({BY}) max by ({BY}) (hybridserve_autoscaler_target_replicas)",
        "{{ $labels.model }}: scale-down is stuck: extra replicas do not terminate",
        "More replicas run than the autoscaler requested.",
    ),
    Alert(
        "HybridServeAutoscalerMetricsMissing", "5m", "ticket", "autoscaler-metrics-missing",
        f"max by ({BY}) (hybridserve_autoscaler_replicas_without_metrics) > 0 "
        f"or max by ({BY}) (rate(hybridserve_autoscaler_errors_total[5m])) > 0",
        "{{ $labels.model }}: the autoscaler lacks metrics or fails",
        "Without metrics nothing is scaled down; after an error the number of replicas is kept.",
    ),
    Alert(
        "HybridServeEngineDown", "1m", "page", "engine-down",
        f"up{_WAS_A_REPLICA}",
        "{{ $labels.replica }} is down: Prometheus cannot scrape it",
        "When an engine crashes, its replica and its metrics endpoint stop with it.",
    ),
    Alert(
        "HybridServeReplicasMissing", "15m", "page", "replicas-missing",
        f"max by ({BY}) (hybridserve_autoscaler_ready_replicas) "
        f"< on ({BY}) max by ({BY}) (hybridserve_autoscaler_target_replicas)",
        "{{ $labels.model }}: replicas are missing: fewer are ready than requested",
        "{{ $value }} are ready, fewer than the autoscaler requested, for longer than a start takes.",
    ),
    Alert(
        "HybridServeReplicaLost", "0m", "info", "engine-down",
        # Over two minutes: a fast replacement removes the target of the dead replica before the next evaluation.
        f"min_over_time(up[2m]){_WAS_A_REPLICA}",
        "{{ $labels.replica }} disappeared (scrape target lost)",
        "Its process was killed or stopped, or exited with its engine.",
    ),
    Alert(
        "HybridServeProxyReplaced", "0m", "info", "serve-component-replaced",
        f"{_replaced('ray_serve_haproxy_process_count')} or {_replaced('ray_serve_num_ongoing_http_requests')}",
        "Ray Serve's proxy on {{ $labels.NodeAddress }} was replaced",
        "It died or failed its health checks. Until the new proxy is ready, no request is served through that node.",
    ),
    Alert(
        "HybridServeControllerReplaced", "0m", "info", "serve-component-replaced",
        _replaced("ray_serve_controller_num_control_loops"),
        "Ray Serve's controller on {{ $labels.NodeAddress }} was replaced",
        "Requests are served without it; until the new controller is ready nothing is scaled or replaced.",
    ),
    Alert(
        "HybridServeEngineStalled", "15s", "page", "engine-stalled",
        "hybridserve_engine_stats_age_seconds > 10",
        "{{ $labels.replica }}: engine reports no progress with pending work",
        "No engine step for {{ $value | humanizeDuration }}. After server.stall_timeout_s the replica exits.",
    ),
    Alert(
        "HybridServeEngineStalled", "3m", "page", "engine-stalled",
        f"sum by ({BY}, replica) (vllm:num_requests_running) > 0 and on ({BY}, replica) "
        f"sum by ({BY}, replica) (rate(vllm:generation_tokens_total[2m]) "
        "+ rate(vllm:prompt_tokens_total[2m])) == 0",
        "{{ $labels.replica }} runs requests and generates no tokens",
        "An engine step takes minutes, or never ends.",
    ),
    Alert(
        "HybridServeMetricsMissing", "5m", "page", "metrics-missing",
        "absent(hybridserve_build_info)",
        "No replica exports metrics",
        "Either nothing runs, or Prometheus does not find the replicas; then no other alert can fire.",
    ),
)  # fmt: skip

# For releases of the chart with a PodMonitor; with metrics of kube-state-metrics, the kubelet or KubeRay.
KUBERNETES = (
    Alert(
        "HybridServeModelMissing", "5m", "page", "metrics-missing",
        f"({RELEASE} unless on ({BY}) hybridserve_build_info) "
        f"and on ({BY}) max_over_time(hybridserve_build_info[1d]) "
        f"unless on ({BY}) hybridserve_autoscaler_target_replicas == 0",
        "{{ $labels.model }}: no replica of release {{ $labels.release }} exports metrics",
        "There were replicas within the last day. Its pods are gone, or Prometheus no longer finds them.",
    ),
    Alert(
        "HybridServePodsMissing", "15m", "page", "pods-missing",
        _of_releases(
            "max by (namespace, deployment) (kube_deployment_status_replicas_available) "
            "< on (namespace, deployment) max by (namespace, deployment) (kube_deployment_spec_replicas)",
            "deployment",
        ),
        "{{ $labels.model }}: pods of Deployment {{ $labels.deployment }} are missing",
        "{{ $value }} pods are available, fewer than the Deployment asks for, for longer than a start takes.",
    ),
    Alert(
        "HybridServeRayServiceNotReady", "15m", "page", "pods-missing",
        _of_releases('max by (namespace, name) (kuberay_service_condition_ready{condition="false"}) == 1', "name"),
        "{{ $labels.model }}: RayService {{ $labels.name }} is not ready",
        "KubeRay reports no serving endpoint, for longer than a start takes.",
    ),
    Alert(
        "HybridServeDisruptionsBlocked", "30m", "ticket", "disruptions-blocked",
        _of_releases(
            "max by (namespace, poddisruptionbudget) (kube_poddisruptionbudget_status_pod_disruptions_allowed) == 0",
            "poddisruptionbudget",
        ),
        "{{ $labels.release }}: its PodDisruptionBudget allows no eviction",
        "Nodes with its pods cannot be drained. Too few pods are ready, or the budget is too strict.",
    ),
    Alert(
        "HybridServeVolumeFull", "5m", "ticket", "volume-claims",
        _of_claims(
            "max by (namespace, persistentvolumeclaim) "
            "(kubelet_volume_stats_available_bytes / kubelet_volume_stats_capacity_bytes) < 0.1",
        ),
        "{{ $labels.persistentvolumeclaim }} of {{ $labels.model }} is almost full",
        "{{ $value | humanizePercentage }} of the volume with the weights is free; another download would fail.",
    ),
    Alert(
        "HybridServeClaimPending", "15m", "ticket", "volume-claims",
        _of_claims(
            "max by (namespace, persistentvolumeclaim) "
            '(kube_persistentvolumeclaim_status_phase{phase=~"Pending|Lost"}) == 1',
        ),
        "{{ $labels.persistentvolumeclaim }} of {{ $labels.model }} is not bound",
        "No pod of the release can start without its volume.",
    ),
)  # fmt: skip
