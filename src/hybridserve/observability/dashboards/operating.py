"""What an operator decides by: scaling, compliance and guard, replicas, and a load test from the server's side."""

from __future__ import annotations

from hybridserve.observability.dashboards.model import MODEL, RATE, RAY, REPLICA, Dashboard, Row, panel, quantiles
from hybridserve.settings.telemetry import TelemetrySection

_NO_GPU = "Ray exports it on nodes with a GPU only"

AUTOSCALING = Dashboard(
    "autoscaling",
    "hybridserve / Autoscaling",
    "What the scaling law sees, what it wants and why, and what Ray Serve makes of it.",
    (
        Row(
            "Replicas",
            (
                panel(
                    "Wanted, told, running", "short", "Wanted by the law, told to Ray Serve, and running; with the bounds.",
                    (f"max(hybridserve_autoscaler_desired_replicas{{{MODEL}}})", "wanted"),
                    (f"max(hybridserve_autoscaler_target_replicas{{{MODEL}}})", "told"),
                    (f"max(hybridserve_autoscaler_ready_replicas{{{MODEL}}})", "running"),
                    (f"max by (bound) (hybridserve_autoscaler_replica_limit{{{MODEL}}})", "{{bound}}"),
                ),
                panel(
                    "Demand, by resource", "short", "Replicas that each resource asks for by itself; the largest binds.",
                    (f"max by (resource) (hybridserve_autoscaler_demand_replicas{{{MODEL}}})", "{{resource}}"),
                    (f'max(hybridserve_autoscaler_replica_limit{{{MODEL}, limit="max"}})', "bound"),
                    runbook="autoscaler-at-limit",
                ),
            ),
        ),
        Row(
            "Now",
            (
                panel(
                    "Still to come", "short", "Replicas that Ray Serve was told to have and that do not run yet.",
                    f"clamp_min(max(hybridserve_autoscaler_target_replicas{{{MODEL}}}) - max(hybridserve_autoscaler_ready_replicas{{{MODEL}}}), 0)",
                    kind="stat", limits=((1, "orange"),), runbook="replicas-missing",
                ),
                panel(
                    "Still to go", "short", "Replicas that run above what Ray Serve was told: they drain.",
                    f"clamp_min(max(hybridserve_autoscaler_ready_replicas{{{MODEL}}}) - max(hybridserve_autoscaler_target_replicas{{{MODEL}}}), 0)",
                    kind="stat", limits=((1, "orange"),), runbook="scale-down-stuck",
                ),
                panel(
                    "Silent replicas", "short", "Run, and have given no fresh reading. On silence nothing is taken away.",
                    f"max(hybridserve_autoscaler_replicas_without_metrics{{{MODEL}}})", kind="stat", limits=((1, "orange"),),
                    runbook="autoscaler-metrics-missing",
                ),
                panel(
                    "Faults of the law", "ops", "Decisions that failed inside; the number was held.",
                    f"max(rate(hybridserve_autoscaler_errors_total{{{MODEL}}}[{RATE}]))", kind="stat", limits=((0.001, "red"),),
                    runbook="autoscaler-metrics-missing",
                ),
                panel(
                    "Dry run", "bool_yes_no", "Yes: decisions are only logged.",
                    f"max(hybridserve_autoscaler_dry_run{{{MODEL}}})", kind="stat", limits=((1, "orange"),),
                ),
            ),
        ),
        Row(
            "Decisions",
            (
                panel(
                    "Decisions, by reason", "ops", "Class of the reason; the sentence itself is in Ray's controller log.",
                    (f"sum by (direction, cause) (rate(hybridserve_autoscaler_decisions_total{{{MODEL}}}[{RATE}]))", "{{direction}}: {{cause}}"),
                    stack=True,
                ),
            ),
        ),
    ),
)  # fmt: skip

COMPLIANCE = Dashboard(
    "compliance",
    "hybridserve / Compliance and guard",
    "Findings of the checks, the age of license readings, and whether the guard works.",
    (
        Row(
            "Findings",
            (
                panel(
                    "Failed, severity error", "short", "Checks that the production profile would refuse.",
                    f'max(hybridserve_compliance_findings{{{REPLICA}, severity="error", status="FAIL"}}) or vector(0)',
                    kind="stat", limits=((1, "red"),), runbook="compliance-fail",
                ),
                panel(
                    "Findings", "short", "By severity and status, as judged at start; any FAIL of severity error is too many.",
                    (f"max by (severity, status) (hybridserve_compliance_findings{{{REPLICA}}})", "{{severity}} {{status}}"),
                    stack=True,
                ),
                panel(
                    "Age of license readings", "s", "Since somebody last read the text.",
                    (f"max by (license, role) (hybridserve_license_review_age_seconds{{{REPLICA}}})", "{{license}} ({{role}})"),
                    limits=((180 * 86400, "orange"),), runbook="license-review-expired",
                ),
            ),
        ),
        Row(
            "Guard",
            (
                panel(
                    "Verdicts", "ops", "By stage and outcome. An error is never a pass.",
                    (f"sum by (stage, outcome) (rate(hybridserve_guard_verdicts_total{{{REPLICA}}}[{RATE}]))", "{{stage}} {{outcome}}"),
                    stack=True,
                ),
                panel(
                    "No verdict", "percentunit", "Share of errors among the guard's verdicts; those requests are refused.",
                    (
                        f'sum by (guard) (rate(hybridserve_guard_verdicts_total{{{REPLICA}, outcome="error"}}[{RATE}])) '
                        f"/ sum by (guard) (rate(hybridserve_guard_verdicts_total{{{REPLICA}}}[{RATE}]))"
                        f" or 0 * sum by (guard) (rate(hybridserve_guard_verdicts_total{{{REPLICA}}}[{RATE}]))", "{{guard}}",
                    ),
                    highest=1, limits=((0.05, "red"),), runbook="guard-down",
                ),
                panel(
                    "Time of a verdict", "s", "Retries included.",
                    *quantiles("hybridserve_guard_check_duration_seconds", "stage"),
                ),
            ),
        ),
        Row(
            "Canaries",
            (
                panel(
                    "Canaries", "bool_yes_no", "The last round: yes when it came back as it must.",
                    (f"min by (kind) (hybridserve_guard_canary_ok{{{REPLICA}}})", "{{kind}}"),
                    base="red", limits=((1, "green"),), runbook="guard-canary-failing",
                ),
                panel(
                    "Time of a canary", "s", "The passing one is answered by the engine.",
                    *quantiles("hybridserve_guard_canary_latency_seconds", "kind"),
                ),
            ),
        ),
        Row(
            "Keys and limits",
            (
                panel(
                    "Refused by keys and limits", "reqps", "Unknown keys, missing rights, too many requests or tokens.",
                    (
                        "sum by (reason) (rate(hybridserve_requests_rejected_total"
                        f'{{{REPLICA}, reason!~"guard.*|engine.*|stream.*|draining|gate_closed"}}[{RATE}]))',
                        "{{reason}}",
                    ),
                    stack=True,
                ),
                panel(
                    "Metered tokens", "short", "Tokens per second charged against limits.",
                    f"sum(rate(hybridserve_rate_limited_tokens_total{{{REPLICA}}}[{RATE}]))",
                ),
            ),
        ),
    ),
)  # fmt: skip

REPLICAS = Dashboard(
    "replicas",
    "hybridserve / Ray and replicas",
    "Every replica by itself, and what Ray Serve says. Of Ray's histograms only counts are used: their sums are not true.",
    (
        Row(
            "Replicas",
            (
                panel(
                    "What runs", "short", "Versions, mode and profile of each replica.",
                    (f"max by (replica, version, vllm, ray, mode, profile) (hybridserve_build_info{{{REPLICA}}})", "{{replica}}: {{version}}, vLLM {{vllm}}, Ray {{ray}}, {{mode}}, {{profile}}"),
                    kind="names",
                ),
                panel(
                    "Running requests", "short", "Sequences in the engine.",
                    (f"sum by (replica) (vllm:num_requests_running{{{REPLICA}}})", "{{replica}}"), stack=True,
                ),
                panel(
                    "Draining", "bool_yes_no", "Yes: takes no new generations.",
                    (f"max by (replica) (hybridserve_draining{{{REPLICA}}})", "{{replica}}"),
                    limits=((1, "orange"),), runbook="scale-down-stuck",
                ),
                panel(
                    "Since the engine spoke", "s", "0 while idle; minutes mean a stuck step.",
                    (f"max by (replica) (hybridserve_engine_stats_age_seconds{{{REPLICA}}})", "{{replica}}"),
                    limits=((10, "orange"), (60, "red")), runbook="engine-stalled",
                ),
            ),
        ),
        Row(
            "Processes",
            (
                panel(
                    "Memory", "bytes", "Resident memory of the replica's process, without the engine core's.",
                    (f'max by (replica) (process_resident_memory_bytes{{{REPLICA}, replica!=""}})', "{{replica}}"),
                ),
                panel(
                    "Processor", "short", "Cores that the replica's process uses, without the engine core's.",
                    (f'sum by (replica) (rate(process_cpu_seconds_total{{{REPLICA}, replica!=""}}[{RATE}]))', "{{replica}}"),
                ),
                panel(
                    "Sleep state", "short", "State of the engine that is 1.",
                    (f"max by (sleep_state) (vllm:engine_sleep_state{{{REPLICA}}})", "{{sleep_state}}"),
                ),
            ),
        ),
        Row(
            "Ray Serve",
            (
                panel(
                    "Healthy replicas", "short", "By Ray Serve's own health check.",
                    (f"sum by (deployment) (ray_serve_deployment_replica_healthy{{{RAY}}})", "{{deployment}}"),
                ),
                panel(
                    "Requests, by status", "reqps", "As Ray Serve's HTTP side counts them.",
                    (f"sum by (status_code) (rate(ray_serve_num_http_requests_total{{{RAY}}}[{RATE}]))", "{{status_code}}"),
                    stack=True,
                ),
                panel(
                    "Told replicas", "short", "Ray Serve's target for the deployment.",
                    (f"max by (deployment) (ray_serve_autoscaling_target_replicas{{{RAY}}})", "{{deployment}}"),
                ),
                panel(
                    "Ongoing at replicas", "short", "Requests that Ray Serve has at each replica.",
                    (f"sum by (replica) (ray_serve_replica_processing_queries{{{RAY}}})", "{{replica}}"), stack=True,
                    rare="Ray forgets it 20 s after its last change",
                ),
                panel(
                    "Lives of a part", "short", "Processes that were Serve's controller or a node's proxy in two minutes; two: it was replaced.",
                    (f"count by (NodeAddress) (count by (NodeAddress, WorkerId) (last_over_time(ray_serve_controller_num_control_loops{{{RAY}}}[2m])))", "controller"),
                    (f"count by (NodeAddress) (count by (NodeAddress, WorkerId) (last_over_time(ray_serve_num_ongoing_http_requests{{{RAY}}}[2m])))", "proxy on {{NodeAddress}}"),
                    limits=((2, "orange"),), runbook="serve-component-replaced",
                ),
            ),
        ),
        Row(
            "Nodes",
            (
                panel(
                    "Memory of the node", "bytes", "In use on each node.",
                    (f"max by (ip) (ray_node_mem_used{{{RAY}}})", "{{ip}}"),
                ),
                panel(
                    "GPU memory", "mbytes", "In use on each GPU. The engine takes its share at start and keeps it.",
                    (f"max by (ip, GpuIndex) (ray_node_gram_used{{{RAY}}})", "{{ip}} {{GpuIndex}}"), rare=_NO_GPU,
                ),
                panel(
                    "GPU busy", "percent", "Share of time in which a kernel ran on each GPU; 100 does not mean that it is full.",
                    (f"max by (ip, GpuIndex) (ray_node_gpus_utilization{{{RAY}}})", "{{ip}} {{GpuIndex}}"),
                    highest=100, rare=_NO_GPU,
                ),
            ),
        ),
    ),
)  # fmt: skip


def load_test(section: TelemetrySection) -> Dashboard:
    """Limits are the targets of the settings."""
    return Dashboard(
        "load-test",
        "hybridserve / Load test",
        "A load test from the server's side, to lay beside the client's report. Both must agree.",
        (
            Row(
                "Load",
                (
                    panel(
                        "Requests in and out", "reqps", "Passed on, and finished.",
                        (f"sum(rate(hybridserve_requests_admitted_total{{{REPLICA}}}[{RATE}]))", "in"),
                        (f"sum(rate(vllm:request_success_total{{{REPLICA}}}[{RATE}]))", "out"),
                    ),
                    panel(
                        "Running and waiting", "short", "A queue that only grows: past the knee.",
                        (f"sum(vllm:num_requests_running{{{REPLICA}}})", "running"),
                        (f"sum(vllm:num_requests_waiting{{{REPLICA}}})", "waiting"),
                        (f"sum(hybridserve_state_slots{{{REPLICA}}})", "slots"),
                    ),
                    panel(
                        "Tokens", "short", "Per second, prompts with what the cache gave.",
                        (f"sum(rate(vllm:prompt_tokens_total{{{REPLICA}}}[{RATE}]))", "prompt"),
                        (f"sum(rate(vllm:generation_tokens_total{{{REPLICA}}}[{RATE}]))", "output"),
                    ),
                ),
            ),
            Row(
                "Shape",
                (
                    panel("Prompt length", "short", "Tokens of a prompt.", *quantiles("vllm:request_prompt_tokens")),
                    panel("Output length", "short", "Tokens of an answer.", *quantiles("vllm:request_generation_tokens")),
                    panel(
                        "Tokens in a step", "short", "Prompt and output tokens that the engine computes at once.",
                        *quantiles("vllm:iteration_tokens_total"),
                    ),
                ),
            ),
            Row(
                "Result",
                (
                    panel("Time to first token", "s", "Mean, exact.",
                        f"sum(rate(vllm:time_to_first_token_seconds_sum{{{REPLICA}}}[{RATE}])) / (sum(rate(vllm:time_to_first_token_seconds_count{{{REPLICA}}}[{RATE}])) > 0)",
                        limits=((section.slo_ttft_s, "red"),), runbook="ttft-budget-burn"),
                    panel("Time between tokens", "s", "Mean of requests' means, exact.",
                        f"sum(rate(vllm:request_time_per_output_token_seconds_sum{{{REPLICA}}}[{RATE}])) / (sum(rate(vllm:request_time_per_output_token_seconds_count{{{REPLICA}}}[{RATE}])) > 0)",
                        limits=((section.slo_inter_token_s, "red"),), runbook="inter-token-budget-burn"),
                    panel("Goodput", "percentunit", "Share of finished requests that are good in both latencies.",
                        f'sum(rate(hybridserve_requests_slo_total{{{REPLICA}, outcome="good"}}[{RATE}])) / (sum(rate(hybridserve_requests_slo_total{{{REPLICA}}}[{RATE}])) > 0)',
                        highest=1, base="red", limits=((section.slo_goodput, "green"),), runbook="goodput-budget-burn"),
                ),
            ),
        ),
    )  # fmt: skip
