"""All alerts: expression, severity, annotations and runbook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybridserve.observability.rules.slo import burn_alerts
from hybridserve.settings.telemetry import TelemetrySection

RUNBOOKS = "https://github.com/hybridserve/hybridserve/blob/main/docs/runbooks"

_CAPACITY = 'vllm:num_requests_waiting_by_reason{reason="capacity"}'
_DAY_S = 86400
# A target counts by what it exported, not by its address: in a pod unused ports are targets too. A replica that was
# removed by scale-down is not down.
_LOST = (
    "up == 0 and on (namespace, model, replica) "
    "max by (namespace, model, replica) (max_over_time(hybridserve_build_info[15m])) "
    "unless on (namespace, model) "
    "max by (namespace, model) (max_over_time(hybridserve_autoscaler_target_replicas[15m])) "
    "> on (namespace, model) max by (namespace, model) (hybridserve_autoscaler_target_replicas)"
)


def _replaced(metric: str) -> str:
    """True if two processes of a node exported within two minutes what only one of them does at a time."""
    each = f"count by (namespace, NodeAddress, WorkerId) (last_over_time({metric}[2m]))"
    return f"count by (namespace, NodeAddress) ({each}) > 1"


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


def alerts(section: TelemetrySection) -> tuple[Alert, ...]:
    """All alerts, burn rates first."""
    lasts = {"page": "The budget will be used up within days.", "ticket": "The budget will not last for the period."}
    burn_rates = tuple(
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
    return burn_rates + STATE


STATE = (
    Alert(
        "HybridServeStateSlotsFull", "5m", "ticket", "state-slots-full",
        f"hybridserve_state_slots_used / hybridserve_state_slots >= 0.95 and on (namespace, model, replica) "
        f"sum by (namespace, model, replica) ({_CAPACITY}) > 0",
        "{{ $labels.replica }}: all state slots are in use and requests wait",
        "Each running sequence needs a slot for its recurrent state; vLLM's KV-cache usage may still be near zero.",
    ),
    Alert(
        "HybridServeHeadOfLineBlocking", "5m", "ticket", "head-of-line-blocking",
        f"sum by (namespace, model, replica) ({_CAPACITY}) > 0 "
        "and on (namespace, model, replica) vllm:kv_cache_usage_perc < 0.9 "
        "and on (namespace, model, replica) hybridserve_state_slots_used / hybridserve_state_slots < 0.95",
        "{{ $labels.replica }}: requests wait although state slots and KV-cache blocks are free",
        "The request at the head of the queue does not fit and blocks the requests behind it.",
    ),
    Alert(
        "HybridServeHighPreemptionRate", "10m", "ticket", "high-preemption-rate",
        "sum by (namespace, model, replica) (rate(vllm:num_preemptions_total[5m])) > 0.1",
        "{{ $labels.replica }} is preempting running requests",
        "Each preempted request is computed again from the start.",
    ),
    Alert(
        "HybridServePrefixCacheIneffective", "1h", "info", "prefix-cache-ineffective",
        "(sum by (namespace, model) (rate(vllm:prefix_cache_hits_total[1h])) "
        "/ sum by (namespace, model) (rate(vllm:prefix_cache_queries_total[1h])) < 0.01 "
        "and sum by (namespace, model) (increase(vllm:prefix_cache_queries_total[1h])) > 100000) "
        "or max by (namespace, model) (hybridserve_prefix_cache_ineffective) > 0",
        "{{ $labels.model }}: the prefix cache has almost no hits",
        "On a hybrid model a prefix shorter than one block can never be a hit.",
    ),
    Alert(
        "HybridServePlanDrift", "5m", "ticket", "plan-drift",
        "hybridserve_plan_mismatched_fields > 0",
        "{{ $labels.replica }}: the engine's cache differs from the plan",
        "{{ $value }} fields differ; GET /plan lists them. Scaling and admission rely on the plan.",
    ),
    Alert(
        "HybridServeGuardDown", "2m", "page", "guard-down",
        'sum by (namespace, model, guard) (rate(hybridserve_guard_verdicts_total{outcome="error"}[5m])) '
        "/ sum by (namespace, model, guard) (rate(hybridserve_guard_verdicts_total[5m])) > 0.05",
        "{{ $labels.guard }}: guard checks fail",
        "{{ $value | humanizePercentage }} of guard checks return an error; those requests are rejected with 503.",
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
        "HybridServeComplianceFail", "1m", "ticket", "compliance-fail",
        "sum by (namespace, model) (max by (namespace, model, severity) "
        '(hybridserve_compliance_findings{severity="error", status="FAIL"})) > 0',
        "{{ $labels.model }} runs with failed compliance checks",
        "{{ $value }} findings of severity error; GET /compliance lists each with its remedy.",
    ),
    Alert(
        "HybridServeLicenseReviewExpired", "1h", "info", "license-review-expired",
        f"max by (namespace, model, license) (hybridserve_license_review_age_seconds) > {180 * _DAY_S}",
        "{{ $labels.license }} was last reviewed more than half a year ago",
        "Some licenses require a regular review.",
    ),
    Alert(
        "HybridServeAutoscalerAtLimit", "10m", "ticket", "autoscaler-at-limit",
        "max by (namespace, model) (hybridserve_autoscaler_demand_replicas) "
        '> on (namespace, model) max by (namespace, model) (hybridserve_autoscaler_replica_limit{limit="max"})',
        "{{ $labels.model }} needs more replicas than scaling.max_replicas",
        "The demand is {{ $value | humanize }} replicas, more than scaling.max_replicas allows.",
    ),
    Alert(
        "HybridServeScaleDownStuck", "15m", "ticket", "scale-down-stuck",
        "max by (namespace, model) (hybridserve_autoscaler_ready_replicas) "
        "> on (namespace, model) max by (namespace, model) (hybridserve_autoscaler_target_replicas)",
        "{{ $labels.model }}: scale-down is stuck: extra replicas do not terminate",
        "More replicas run than the target of Ray Serve.",
    ),
    Alert(
        "HybridServeAutoscalerMetricsMissing", "5m", "ticket", "autoscaler-metrics-missing",
        "max by (namespace, model) (hybridserve_autoscaler_replicas_without_metrics) > 0 "
        "or max by (namespace, model) (rate(hybridserve_autoscaler_errors_total[5m])) > 0",
        "{{ $labels.model }}: the autoscaler lacks metrics or fails",
        "Without metrics nothing is scaled down; after an error the number of replicas is kept.",
    ),
    Alert(
        "HybridServeEngineDown", "1m", "page", "engine-down",
        _LOST,
        "{{ $labels.replica }} is down: Prometheus cannot scrape it",
        "When an engine crashes, its replica and its metrics endpoint stop with it.",
    ),
    Alert(
        "HybridServeReplicasMissing", "15m", "page", "replicas-missing",
        "max by (namespace, model) (hybridserve_autoscaler_ready_replicas) "
        "< on (namespace, model) max by (namespace, model) (hybridserve_autoscaler_target_replicas)",
        "{{ $labels.model }}: replicas are missing: fewer are ready than requested",
        "{{ $value }} are ready, fewer than the target of Ray Serve, for longer than a start takes.",
    ),
    Alert(
        "HybridServeReplicaLost", "0m", "info", "engine-down",
        _LOST,
        "{{ $labels.replica }} disappeared (scrape target lost)",
        "Its process was killed or stopped, or exited with its engine. Ray Serve starts another replica.",
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
        "sum by (namespace, model, replica) (vllm:num_requests_running) > 0 and on (namespace, model, replica) "
        "sum by (namespace, model, replica) (rate(vllm:generation_tokens_total[2m]) "
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
