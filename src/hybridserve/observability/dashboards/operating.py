"""Dashboards for operators: autoscaling, compliance and guard, replicas, and a load test from the server's side."""

from __future__ import annotations

from hybridserve.observability.dashboards.model import (
    MODEL,
    NAMESPACE,
    RATE,
    RAY,
    REPLICA,
    Dashboard,
    dashboard,
    highest,
    mean,
    panel,
    quantiles,
    rate,
    row,
    stat,
    total,
)
from hybridserve.settings.telemetry import TelemetrySection

_NO_GPU = "Ray exports it on nodes with a GPU only"
_NO_DCGM, _NO_KUBERNETES = "needs NVIDIA's DCGM exporter", "needs kube-state-metrics"
_ORANGE = (1, "orange")
_DESIRED, _TARGET, _READY, _MISSING, _DRY_RUN = (
    highest(f"hybridserve_autoscaler_{name}", where=MODEL)[0]
    for name in ("desired_replicas", "target_replicas", "ready_replicas", "replicas_without_metrics", "dry_run")
)

_COST = f"count(hybridserve_build_info{{{MODEL}}}) * $price"
_GOOD, _FINISHED = (
    rate("hybridserve_requests_slo_total", where=where)[0] for where in (f'{MODEL}, outcome="good"', MODEL)
)
_GOOD_TOKENS = f"{rate('vllm:generation_tokens_total', where=MODEL)[0]} * {_GOOD} / {_FINISHED}"

AUTOSCALING = dashboard(
    "autoscaling", "Autoscaling", "What the scaling policy sees and decides, and the replicas that run.",
    row(
        "Replicas",
        panel(
            "Desired / target / ready replicas", "suffix: replicas",
            "Desired by the scaling policy, requested, and running; with the limits.",
            (_DESIRED, "desired"), (_TARGET, "target"), (_READY, "ready"),
            highest("hybridserve_autoscaler_replica_limit", "limit", MODEL),
        ),
        panel(
            "Demand, by resource", "suffix: replicas",
            "Replicas that the demand for each resource requires; the largest counts.",
            highest("hybridserve_autoscaler_demand_replicas", "resource", MODEL),
            (f'max(hybridserve_autoscaler_replica_limit{{{MODEL}, limit="max"}})', "max_replicas"),
            runbook="autoscaler-at-limit",
        ),
    ),
    row(
        "Now",
        stat("Replicas starting", "suffix: replicas", "Requested and not running yet.",
             f"clamp_min({_TARGET} - {_READY}, 0)", _ORANGE, runbook="replicas-missing"),
        stat("Replicas draining", "suffix: replicas", "Running above the target: they finish their requests and stop.",
             f"clamp_min({_READY} - {_TARGET}, 0)", _ORANGE, runbook="scale-down-stuck"),
        stat("Replicas without metrics", "suffix: replicas",
             "Running, with missing or stale metrics. While there are any, nothing is scaled down.",
             _MISSING, _ORANGE, runbook="autoscaler-metrics-missing"),
        stat("Autoscaler errors", "ops", "Scaling decisions that raised an error; the number of replicas was kept.",
             f"max(rate(hybridserve_autoscaler_errors_total{{{MODEL}}}[{RATE}]))", (0.001, "red"),
             runbook="autoscaler-metrics-missing"),
        stat("Dry run", "bool_yes_no", "Yes: decisions are only logged.", _DRY_RUN, _ORANGE),
    ),
    row(
        "Decisions",
        panel(
            "Decisions, by cause", "ops", "The full reason of each change is in the log, event=scale.",
            (rate("hybridserve_autoscaler_decisions_total", "direction, cause", MODEL)[0], "{{direction}}: {{cause}}"),
            stack=True,
        ),
    ),
    row(
        "Cost",
        panel("Cost", "suffix: / h", "Replicas that report metrics, times the price of a replica-hour at the top of the page.",
              _COST),
        panel(
            "Cost of a million good output tokens", "suffix: / 1M tokens",
            "Estimate: output tokens times the share of requests that met both targets.",
            f"{_COST} / 3600 * 1e6 / ({_GOOD_TOKENS} > 0)",
        ),
    ),
)  # fmt: skip

_FAILED = f'hybridserve_compliance_findings{{{REPLICA}, severity="error", status="FAIL"}}'
_VERDICTS = rate("hybridserve_guard_verdicts_total", "guard")[0]
_VERDICT_ERRORS = rate("hybridserve_guard_verdicts_total", "guard", f'{REPLICA}, outcome="error"')[0]
_CLIENT_REASONS = f'{REPLICA}, reason!~"guard.*|engine.*|stream.*|draining"'

COMPLIANCE = dashboard(
    "compliance", "Compliance and guard",
    "Findings of the compliance checks, age of the license reviews, and whether the guard works.",
    row(
        "Findings",
        stat("Failed, severity error", "suffix: findings", "Checks that the production profile would refuse to start with.",
             f"max({_FAILED}) or vector(0)", (1, "red"), runbook="compliance-fail"),
        panel(
            "Findings", "suffix: findings", "By severity and status, from the checks at start. Any FAIL of severity error needs action.",
            highest("hybridserve_compliance_findings", "severity, status"), stack=True,
        ),
        stat("Lapsed", "suffix: findings", "Checks that would refuse a start now; the service closes after license.grace_days.",
             f"max(hybridserve_compliance_lapses{{{REPLICA}}}) or vector(0)", (1, "red"), runbook="compliance-lapsed"),
        panel(
            "Age of license reviews", "s", "Since a license text was last reviewed, for the catalog or by who accepted it; with the limit.",
            (highest("hybridserve_license_review_age_seconds", "license, role")[0], "{{license}} ({{role}})"),
            (highest("hybridserve_license_review_limit_seconds")[0], "license.max_review_age_days"),
            runbook="license-review-expired",
        ),
    ),
    row(
        "Numeric check of the engine",
        panel(
            "Check passed", "bool_yes_no", "At the start of each replica; one that failed is not ready and serves nothing.",
            (f"min by (replica, against) (hybridserve_verify_passed{{{REPLICA}}})", "{{replica}} against {{against}}"),
            base="red", limits=((1, "green"),), runbook="engine-unverified", rare="needs verify.at_start",
        ),
        panel(
            "Deviation", "percentunit", "Of log-probabilities from the reference, as a share of its limit, by condition.",
            ("max by (condition) (hybridserve_verify_deviation{value=\"level\"} / ignoring (value) "
             "hybridserve_verify_deviation{value=\"limit\"})", "{{condition}}"),
            limits=((1, "red"),), runbook="engine-unverified", rare="needs verify.at_start",
        ),
    ),
    row(
        "Guard",
        panel("Verdicts", "ops", "By stage and outcome. An error never passes a request.",
              rate("hybridserve_guard_verdicts_total", "stage, outcome"), stack=True),
        panel(
            "Guard errors", "percentunit", "Share of guard checks without a verdict; those requests are rejected.",
            (f"{_VERDICT_ERRORS} / {_VERDICTS} or 0 * {_VERDICTS}", "{{guard}}"),
            highest=1, limits=((0.05, "red"),), runbook="guard-down",
        ),
        panel("Guard check duration", "s", "Retries included.",
              *quantiles("hybridserve_guard_check_duration_seconds", "stage")),
    ),
    row(
        "Guard self-test",
        panel(
            "Self-test passed", "bool_yes_no", "Whether the last self-test prompt of each kind had the expected result.",
            (f"min by (kind) (hybridserve_guard_canary_ok{{{REPLICA}}})", "{{kind}}"),
            base="red", limits=((1, "green"),), runbook="guard-canary-failing",
        ),
        panel("Self-test duration", "s", "The engine answers the prompt that passes.",
              *quantiles("hybridserve_guard_canary_latency_seconds", "kind")),
    ),
    row(
        "Keys and limits",
        panel("Rejected by keys and limits", "reqps", "Unknown keys, missing scopes, too many requests or tokens.",
              rate("hybridserve_requests_rejected_total", "reason", _CLIENT_REASONS), stack=True),
        stat("Replicas without shared limits", "suffix: replicas", "They cannot reach the ledger, and apply their share of each limit.",
             f"sum(hybridserve_limits_ledger_lost{{{REPLICA}}}) or vector(0)", (1, "orange"),
             runbook="limits-ledger-lost"),
        stat("Key file broken", "suffix: replicas", "Replicas that cannot use their key file as it is; removed keys end all the same.",
             f"sum(hybridserve_keys_file_broken{{{REPLICA}}}) or vector(0)", (1, "red"), runbook="keys-file-broken"),
        panel("Rate-limited tokens", "suffix: tokens/s", "Tokens per second charged against token limits.",
              rate("hybridserve_rate_limited_tokens_total")),
    ),
)  # fmt: skip


def _processes(metric: str) -> str:
    """Processes per node that exported a metric within two minutes; two when one replaced the other."""
    return (
        "count by (NodeAddress) (count by (NodeAddress, WorkerId) "
        f"(last_over_time(ray_serve_{metric}{{{RAY}}}[2m])))"
    )  # fmt: skip


_BUILD = highest("hybridserve_build_info", "replica, version, vllm, ray, mode, profile")[0]
_GPU = "Hostname, gpu"
_NAMED = f'{REPLICA}, replica!=""'

REPLICAS = dashboard(
    "replicas", "Ray and replicas",
    "Each replica, and Ray Serve's own metrics. Of Ray's histograms only the counts are used: their sums are wrong.",
    row(
        "Replicas",
        panel("Versions", "suffix: replicas", "Versions, mode and profile of each replica.",
              (_BUILD, "{{replica}}: {{version}}, vLLM {{vllm}}, Ray {{ray}}, {{mode}}, {{profile}}"), kind="names"),
        panel("Running requests", "suffix: requests", "Sequences in the engine.", total("vllm:num_requests_running", "replica"),
              stack=True),
        panel("Draining", "bool_yes_no", "Yes: rejects new generations.", highest("hybridserve_draining", "replica"),
              limits=(_ORANGE,), runbook="scale-down-stuck"),
        panel("Age of engine statistics", "s", "0 while idle; seconds without progress mean a stalled engine.",
              highest("hybridserve_engine_stats_age_seconds", "replica"),
              limits=((10, "orange"), (60, "red")), runbook="engine-stalled"),
    ),
    row(
        "Processes",
        panel("Memory", "bytes", "Resident memory of the replica's process, without the engine core's.",
              highest("process_resident_memory_bytes", "replica", _NAMED)),
        panel("CPU", "suffix: cores", "Cores used by the replica's process, without the engine core's.",
              rate("process_cpu_seconds_total", "replica", _NAMED)),
        panel("Sleep state", "bool_yes_no", "The engine's sleep state is the one with value 1.",
              highest("vllm:engine_sleep_state", "sleep_state")),
    ),
    row(
        "Ray Serve",
        panel("Healthy replicas", "suffix: replicas", "By Ray Serve's own health check.",
              total("ray_serve_deployment_replica_healthy", "deployment", RAY)),
        panel("Requests, by status", "reqps", "As counted by Ray Serve's HTTP proxy.",
              rate("ray_serve_num_http_requests_total", "status_code", RAY), stack=True),
        panel("Target replicas", "suffix: replicas", "Ray Serve's target for the deployment.",
              highest("ray_serve_autoscaling_target_replicas", "deployment", RAY)),
        panel("Ongoing requests", "suffix: requests", "Requests that Ray Serve has at each replica.",
              total("ray_serve_replica_processing_queries", "replica", RAY), stack=True,
              rare="Ray drops it 20 s after its last change"),
        panel(
            "Component restarts", "suffix: processes",
            "Processes that were Serve's controller or a node's proxy within two minutes; 2 means that it was replaced.",
            (_processes("controller_num_control_loops"), "controller"),
            (_processes("num_ongoing_http_requests"), "proxy on {{NodeAddress}}"),
            limits=((2, "orange"),), runbook="serve-component-replaced",
        ),
    ),
    row(
        "Nodes",
        panel("Node memory", "bytes", "In use on each node.", highest("ray_node_mem_used", "ip", RAY)),
        panel("GPU memory", "mbytes", "In use on each GPU. The engine allocates its share at start and keeps it.",
              highest("ray_node_gram_used", "ip, GpuIndex", RAY), rare=_NO_GPU),
        panel("GPU utilization", "percent", "Share of time with a running kernel; 100 does not mean full throughput.",
              highest("ray_node_gpus_utilization", "ip, GpuIndex", RAY), highest=100, rare=_NO_GPU),
    ),
    row(
        "GPUs, by the DCGM exporter",
        panel("Active GPU", "percent", "All GPUs that the exporter reports, whatever namespace is chosen.",
              highest("DCGM_FI_DEV_GPU_UTIL", _GPU, ""), highest=100, rare=_NO_DCGM),
        panel("GPU memory in use", "mbytes", "Framebuffer in use.", highest("DCGM_FI_DEV_FB_USED", _GPU, ""), rare=_NO_DCGM),
        panel("GPU power", "watt", "A GPU far below its neighbors is throttled or idle.",
              highest("DCGM_FI_DEV_POWER_USAGE", _GPU, ""), rare=_NO_DCGM),
        panel("GPU temperature", "celsius", "Data-center GPUs throttle at about 85 to 90 degrees.",
              highest("DCGM_FI_DEV_GPU_TEMP", _GPU, ""), limits=((85, "orange"),), rare=_NO_DCGM),
        panel("Last XID error", "suffix: XID", "Number of the driver's last error; 0 or no data if there was none.",
              highest("DCGM_FI_DEV_XID_ERRORS", _GPU, ""), limits=((1, "red"),), rare=_NO_DCGM),
    ),
    row(
        "Kubernetes",
        panel("Missing pods", "suffix: pods", "Pods that a Deployment asks for and that are not available.",
              ("max by (namespace, deployment) "
               f"(kube_deployment_spec_replicas{{{NAMESPACE}}} - kube_deployment_status_replicas_available{{{NAMESPACE}}})",
               "{{namespace}}/{{deployment}}"),
              limits=((1, "red"),), runbook="pods-missing", rare=_NO_KUBERNETES),
        panel("Pending pods", "suffix: pods", "Not scheduled, or pulling an image: often waiting for a GPU.",
              total("kube_pod_status_phase", "namespace", f'{NAMESPACE}, phase="Pending"'), limits=(_ORANGE,),
              runbook="pods-missing", rare=_NO_KUBERNETES),
        panel("RayServices that are not ready", "suffix: services", "As KubeRay's operator reports it.",
              total("kuberay_service_condition_ready", "namespace, name", f'{NAMESPACE}, condition="false"'),
              limits=((1, "red"),), runbook="pods-missing", rare="needs the metrics of KubeRay's operator"),
        panel("Allowed disruptions", "suffix: pods", "Pods that may be evicted now; at 0 no node can be drained.",
              highest("kube_poddisruptionbudget_status_pod_disruptions_allowed", "namespace, poddisruptionbudget", NAMESPACE),
              base="orange", limits=((1, "green"),), runbook="disruptions-blocked", rare=_NO_KUBERNETES),
        panel("Free space of volumes", "percentunit", "Below 10 % another download may fail.",
              ("min by (namespace, persistentvolumeclaim) (kubelet_volume_stats_available_bytes"
               f"{{{NAMESPACE}}} / kubelet_volume_stats_capacity_bytes{{{NAMESPACE}}})",
               "{{namespace}}/{{persistentvolumeclaim}}"),
              base="red", highest=1, limits=((0.1, "green"),), runbook="volume-claims", rare="needs the kubelet's metrics"),
    ),
)  # fmt: skip


def load_test(section: TelemetrySection) -> Dashboard:
    """A load test from the server's side; thresholds are the targets of the settings."""
    good = rate("hybridserve_requests_slo_total", where=f'{REPLICA}, outcome="good"')[0]
    return dashboard(
        "load-test", "Load test", "A load test from the server's side, to compare with the client's report.",
        row(
            "Load",
            panel("Requests in and out", "reqps", "Forwarded to the engine, and finished.",
                  (rate("hybridserve_requests_admitted_total")[0], "in"), (rate("vllm:request_success_total")[0], "out")),
            panel("Running and waiting", "suffix: requests", "A queue that only grows: the load is above capacity.",
                  (total("vllm:num_requests_running")[0], "running"), (total("vllm:num_requests_waiting")[0], "waiting"),
                  (total("hybridserve_state_slots")[0], "slots")),
            panel("Tokens", "suffix: tokens/s", "Tokens per second; prompt tokens include cache hits.",
                  (rate("vllm:prompt_tokens_total")[0], "prompt"), (rate("vllm:generation_tokens_total")[0], "output")),
        ),
        row(
            "Shape",
            panel("Prompt length", "suffix: tokens", "Prompt tokens per request.", *quantiles("vllm:request_prompt_tokens")),
            panel("Output length", "suffix: tokens", "Output tokens per request.", *quantiles("vllm:request_generation_tokens")),
            panel("Tokens per step", "suffix: tokens", "Prompt and output tokens that the engine computes in one step.",
                  *quantiles("vllm:iteration_tokens_total")),
        ),
        row(
            "Result",
            panel("Time to first token", "s", "Exact mean.", mean("vllm:time_to_first_token_seconds"),
                  limits=((section.slo_ttft_s, "red"),), runbook="ttft-budget-burn"),
            panel("Time per output token", "s", "Exact mean of the means of requests.",
                  mean("vllm:request_time_per_output_token_seconds"),
                  limits=((section.slo_inter_token_s, "red"),), runbook="inter-token-budget-burn"),
            panel("Attainment", "percentunit", "Share of finished requests that meet both latency targets.",
                  f"{good} / ({rate('hybridserve_requests_slo_total')[0]} > 0)",
                  highest=1, base="red", limits=((section.slo_attainment, "green"),), runbook="attainment-budget-burn"),
        ),
    )  # fmt: skip
