"""Every alert that is not a burning budget: what it asks, how bad it is, and which page of the runbook it sends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybridserve.observability.rules.slo import burn_alerts
from hybridserve.settings.telemetry import TelemetrySection

Severity = Literal["page", "ticket", "info"]
RUNBOOKS = "https://github.com/hybridserve/hybridserve/blob/main/docs/runbooks"

_CAPACITY = 'vllm:num_requests_waiting_by_reason{reason="capacity"}'
_DAY_S = 86400
# Known by what it exported, not by its address: in a pod unused ports are targets too. And who was told to go is not
# down.
_LOST = (
    "up == 0 and on (namespace, model, replica) "
    "max by (namespace, model, replica) (max_over_time(hybridserve_build_info[15m])) "
    "unless on (namespace, model) "
    "max by (namespace, model) (max_over_time(hybridserve_autoscaler_target_replicas[15m])) "
    "> on (namespace, model) max by (namespace, model) (hybridserve_autoscaler_target_replicas)"
)


def _replaced(metric: str) -> str:
    """Two processes of one node within two minutes exported what only one of them does at a time."""
    each = f"count by (namespace, NodeAddress, WorkerId) (last_over_time({metric}[2m]))"
    return f"count by (namespace, NodeAddress) ({each}) > 1"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        expr: PromQL.
        hold: how long it must be true.
        runbook: name of the page under docs/runbooks.
    """

    name: str
    expr: str
    hold: str
    severity: Severity
    runbook: str
    summary: str
    description: str

    @property
    def runbook_url(self) -> str:
        return f"{RUNBOOKS}/{self.runbook}.md"


def alerts(section: TelemetrySection) -> tuple[Alert, ...]:
    """All alerts, budgets first."""
    burning = tuple(
        Alert(
            slo.alert,
            expr,
            "0m",
            "page" if severity == "page" else "ticket",
            f"{slo.runbook}-budget-burn",
            f"{{{{ $labels.model }}}} burns its {slo.name} budget",
            f"Good is: {slo.good_word}, for {slo.objective:.4g} of requests. "
            + ("It will be gone in days." if severity == "page" else "It will not last the period."),
        )
        for slo, severity, expr in burn_alerts(section)
    )
    return burning + STATE


STATE = (
    Alert(
        "HybridServeStateSlotsFull",
        f"hybridserve_state_slots_used / hybridserve_state_slots >= 0.95 and on (namespace, model, replica) "
        f"sum by (namespace, model, replica) ({_CAPACITY}) > 0",
        "5m",
        "ticket",
        "state-slots-full",
        "{{ $labels.replica }}: every state slot is taken and requests wait",
        "The recurrent state of each running sequence needs a slot; the engine's own usage figure may read near zero.",
    ),
    Alert(
        "HybridServeHeadOfLineBlocking",
        f"sum by (namespace, model, replica) ({_CAPACITY}) > 0 "
        "and on (namespace, model, replica) vllm:kv_cache_usage_perc < 0.9 "
        "and on (namespace, model, replica) hybridserve_state_slots_used / hybridserve_state_slots < 0.95",
        "5m",
        "ticket",
        "head-of-line-blocking",
        "{{ $labels.replica }}: requests wait although slots and blocks are free",
        "The request at the head of the queue does not fit and holds up the ones behind it.",
    ),
    Alert(
        "HybridServeHighPreemptionRate",
        "sum by (namespace, model, replica) (rate(vllm:num_preemptions_total[5m])) > 0.1",
        "10m",
        "ticket",
        "high-preemption-rate",
        "{{ $labels.replica }} throws running sequences out of the cache",
        "Each preempted sequence is computed again from its beginning.",
    ),
    Alert(
        "HybridServePrefixCacheIneffective",
        "(sum by (namespace, model) (rate(vllm:prefix_cache_hits_total[1h])) "
        "/ sum by (namespace, model) (rate(vllm:prefix_cache_queries_total[1h])) < 0.01 "
        "and sum by (namespace, model) (increase(vllm:prefix_cache_queries_total[1h])) > 100000) "
        "or max by (namespace, model) (hybridserve_prefix_cache_ineffective) > 0",
        "1h",
        "info",
        "prefix-cache-ineffective",
        "{{ $labels.model }}: the prefix cache finds nothing",
        "On a hybrid model a prefix shorter than one block can never hit.",
    ),
    Alert(
        "HybridServePlanDrift",
        "hybridserve_plan_mismatched_fields > 0",
        "5m",
        "ticket",
        "plan-drift",
        "{{ $labels.replica }}: the engine's cache is not as planned",
        "{{ $value }} fields differ; GET /plan names them. Scaling and admission count with the plan.",
    ),
    Alert(
        "HybridServeGuardDown",
        'sum by (namespace, model, guard) (rate(hybridserve_guard_verdicts_total{outcome="error"}[5m])) '
        "/ sum by (namespace, model, guard) (rate(hybridserve_guard_verdicts_total[5m])) > 0.05",
        "2m",
        "page",
        "guard-down",
        "{{ $labels.guard }}: the guard gives no verdict",
        "{{ $value | humanizePercentage }} of its verdicts are errors; those requests are refused with 503.",
    ),
    Alert(
        "HybridServeGuardCanaryFailing",
        "hybridserve_guard_canary_ok == 0",
        "2m",
        "page",
        "guard-canary-failing",
        "{{ $labels.replica }}: the {{ $labels.kind }} canary does not come back as it must",
        "The guard answers, and answers wrongly; after several rounds the replica serves nothing.",
    ),
    Alert(
        "HybridServeComplianceFail",
        "sum by (namespace, model) (max by (namespace, model, severity) "
        '(hybridserve_compliance_findings{severity="error", status="FAIL"})) > 0',
        "1m",
        "ticket",
        "compliance-fail",
        "{{ $labels.model }} runs with failed compliance findings",
        "{{ $value }} findings of severity error; GET /compliance shows each with its remedy.",
    ),
    Alert(
        "HybridServeLicenseReviewExpired",
        f"max by (namespace, model, license) (hybridserve_license_review_age_seconds) > {180 * _DAY_S}",
        "1h",
        "info",
        "license-review-expired",
        "{{ $labels.license }} was last read half a year ago",
        "Some licenses ask to be looked at regularly.",
    ),
    Alert(
        "HybridServeAutoscalerAtLimit",
        "max by (namespace, model) (hybridserve_autoscaler_demand_replicas) "
        '> on (namespace, model) max by (namespace, model) (hybridserve_autoscaler_replica_limit{limit="max"})',
        "10m",
        "ticket",
        "autoscaler-at-limit",
        "{{ $labels.model }} needs more replicas than it may have",
        "The demand is {{ $value | humanize }} replicas; scaling.max_replicas holds it back.",
    ),
    Alert(
        "HybridServeScaleDownStuck",
        "max by (namespace, model) (hybridserve_autoscaler_ready_replicas) "
        "> on (namespace, model) max by (namespace, model) (hybridserve_autoscaler_target_replicas)",
        "15m",
        "ticket",
        "scale-down-stuck",
        "{{ $labels.model }}: replicas that shall go do not go",
        "More replicas run than Ray Serve was told to have.",
    ),
    Alert(
        "HybridServeAutoscalerMetricsMissing",
        "max by (namespace, model) (hybridserve_autoscaler_replicas_without_metrics) > 0 "
        "or max by (namespace, model) (rate(hybridserve_autoscaler_errors_total[5m])) > 0",
        "5m",
        "ticket",
        "autoscaler-metrics-missing",
        "{{ $labels.model }}: the scaling law lacks readings or fails",
        "On silence and on faults the number of replicas is held.",
    ),
    Alert(
        "HybridServeEngineDown",
        _LOST,
        "1m",
        "page",
        "engine-down",
        "{{ $labels.replica }} does not answer Prometheus",
        "An engine that crashes takes its replica and its metrics along.",
    ),
    Alert(
        "HybridServeReplicasMissing",
        "max by (namespace, model) (hybridserve_autoscaler_ready_replicas) "
        "< on (namespace, model) max by (namespace, model) (hybridserve_autoscaler_target_replicas)",
        "15m",
        "page",
        "replicas-missing",
        "{{ $labels.model }}: replicas that shall run do not come",
        "{{ $value }} run, fewer than Ray Serve was told to have, for longer than a start takes.",
    ),
    Alert(
        "HybridServeReplicaLost",
        _LOST,
        "0m",
        "info",
        "engine-down",
        "{{ $labels.replica }} went away without a word",
        "Its process was killed, ended itself with its engine, or is stopped. Ray Serve starts another one.",
    ),
    Alert(
        "HybridServeProxyReplaced",
        f"{_replaced('ray_serve_haproxy_process_count')} or {_replaced('ray_serve_num_ongoing_http_requests')}",
        "0m",
        "info",
        "serve-component-replaced",
        "Ray Serve's proxy on {{ $labels.NodeAddress }} was replaced",
        "It died, or did not answer its health checks. Until the new one is there nobody is served through that node.",
    ),
    Alert(
        "HybridServeControllerReplaced",
        _replaced("ray_serve_controller_num_control_loops"),
        "0m",
        "info",
        "serve-component-replaced",
        "Ray Serve's controller on {{ $labels.NodeAddress }} was replaced",
        "Requests are served without it; until the new one is there nothing is scaled and nothing replaced.",
    ),
    Alert(
        "HybridServeEngineStalled",
        "hybridserve_engine_stats_age_seconds > 10",
        "15s",
        "page",
        "engine-stalled",
        "{{ $labels.replica }} has work and its engine says nothing",
        "Silent for {{ $value | humanizeDuration }}. After server.stall_timeout_s its process ends itself.",
    ),
    Alert(
        "HybridServeEngineStalled",
        "sum by (namespace, model, replica) (vllm:num_requests_running) > 0 and on (namespace, model, replica) "
        "sum by (namespace, model, replica) (rate(vllm:generation_tokens_total[2m]) "
        "+ rate(vllm:prompt_tokens_total[2m])) == 0",
        "3m",
        "page",
        "engine-stalled",
        "{{ $labels.replica }} runs requests and makes no tokens",
        "A step takes minutes, or never ends.",
    ),
    Alert(
        "HybridServeMetricsMissing",
        "absent(hybridserve_build_info)",
        "5m",
        "page",
        "metrics-missing",
        "No replica exports metrics",
        "Either nothing runs, or Prometheus does not find it: no other alert can fire.",
    ),
)
