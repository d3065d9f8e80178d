"""What users feel, and what the cache of a hybrid model does about it."""

from __future__ import annotations

from hybridserve.observability.dashboards.model import MODEL, RATE, REPLICA, Dashboard, Row, panel, quantiles
from hybridserve.observability.rules.slo import WINDOWS, objectives
from hybridserve.settings.telemetry import TelemetrySection

_SLOTS = f"max by (replica) (hybridserve:state_slots:utilization{{{REPLICA}}})"
_FULL = ((0.8, "orange"), (0.95, "red"))


def overview(section: TelemetrySection) -> Dashboard:
    """The first look; targets are those of the settings."""
    slos = objectives(section)
    return Dashboard(
        "overview",
        "hybridserve / Overview",
        "Are users served, within the objectives, and by how many replicas.",
        (
            Row(
                "Now",
                (
                    panel(
                        "Replicas", "short", "Replicas that answer Prometheus.",
                        f"count(hybridserve_build_info{{{REPLICA}}})",
                        kind="stat", base="red", limits=((1, "green"),), runbook="engine-down",
                    ),
                    panel(
                        "Requests", "reqps", "Generations passed on to the engine, over five minutes.",
                        f"sum(hybridserve:requests_admitted:rate5m{{{MODEL}}})", kind="stat",
                    ),
                    panel(
                        "Tokens out", "short", "Generated per second, over five minutes.",
                        f"sum(hybridserve:generation_tokens:rate5m{{{MODEL}}})", kind="stat",
                    ),
                    panel(
                        "State slots", "percentunit", "Fullest replica. At 100 % requests wait, whatever its blocks do.",
                        f"max({_SLOTS})", kind="stat", limits=_FULL, runbook="state-slots-full",
                    ),
                    panel(
                        "First token, p95", "s", "Over five minutes; red from the target on.",
                        f"max(hybridserve:ttft_seconds:p95_rate5m{{{MODEL}}})",
                        kind="stat", limits=((section.slo_ttft_s, "red"),), runbook="ttft-budget-burn",
                    ),
                    panel(
                        "Alerts", "short", "Of ours, that fire now.",
                        f'count(ALERTS{{alertname=~"HybridServe.*", alertstate="firing", {MODEL}}}) or vector(0)',
                        kind="stat", limits=((1, "red"),),
                    ),
                ),
            ),
            Row(
                "Objectives",
                (
                    panel(
                        "Burn rate", "short", "1 uses the budget up exactly at the end of the period; 14 within two days.",
                        *((f'slo:current_burn_rate:ratio{{sloth_id="hybridserve-{slo.name}", {MODEL}}}', slo.name) for slo in slos),
                        limits=((1, "orange"), (6, "red")), runbook="goodput-budget-burn",
                    ),
                    panel(
                        "Bad requests over the last hour", "percentunit",
                        "Outside of each objective: "
                        + ", ".join(f"{slo.good_word} for {slo.objective:.4g}" for slo in slos) + ".",
                        *((f'slo:sli_error:ratio_rate{WINDOWS[2]}{{sloth_id="hybridserve-{slo.name}", {MODEL}}}', slo.name) for slo in slos),
                    ),
                    panel(
                        "Requests by outcome", "reqps", "Finished requests against both latency targets at once.",
                        (f"sum by (outcome) (rate(hybridserve_requests_slo_total{{{REPLICA}}}[{RATE}]))", "{{outcome}}"),
                        stack=True,
                    ),
                ),
            ),
            Row(
                "What did not go through",
                (
                    panel(
                        "Refused, by reason", "reqps", "By the control layer: keys, limits, guard, shutdown.",
                        (f"sum by (reason) (rate(hybridserve_requests_rejected_total{{{REPLICA}}}[{RATE}]))", "{{reason}}"),
                        stack=True,
                    ),
                    panel(
                        "Failed by us", "percentunit", "Share of requests that end by a fault of the service, not of the client.",
                        f'slo:sli_error:ratio_rate{WINDOWS[0]}{{sloth_id="hybridserve-availability", {MODEL}}}',
                        limits=((1 - section.slo_availability, "red"),), runbook="availability-budget-burn",
                    ),
                    panel(
                        "Streams that ended badly", "reqps", "Cut after they had begun, by reason. client_gone: the client left.",
                        (f"sum by (reason) (rate(hybridserve_streams_aborted_total{{{REPLICA}}}[{RATE}]))", "{{reason}}"),
                    ),
                    panel(
                        "Control layer", "s", "Its own time before the engine sees a request, guards not counted.",
                        *quantiles("hybridserve_gateway_overhead_seconds"), limits=((0.01, "orange"),),
                    ),
                ),
            ),
        ),
    )  # fmt: skip


HYBRID_CACHE = Dashboard(
    "hybrid-cache",
    "hybridserve / Hybrid cache",
    "State slots, the block pool that states and attention share, the prefix cache, and the plan against reality.",
    (
        Row(
            "State slots",
            (
                panel(
                    "State slots", "short", "Sequences that hold a recurrent state, and how many can.",
                    (f"sum by (replica) (hybridserve_state_slots_used{{{REPLICA}}})", "used {{replica}}"),
                    (f"sum by (replica) (hybridserve_state_slots{{{REPLICA}}})", "all {{replica}}"),
                ),
                panel(
                    "Slots in use", "percentunit", "At 100 % every further request waits.",
                    (_SLOTS, "{{replica}}"), highest=1, limits=_FULL,
                    runbook="state-slots-full",
                ),
                panel(
                    "Waiting, by reason", "short",
                    "capacity: for slots or blocks. deferred: for something more replicas would not give.",
                    (f"sum by (reason) (vllm:num_requests_waiting_by_reason{{{REPLICA}}})", "{{reason}}"),
                    stack=True, limits=((1, "orange"),), runbook="head-of-line-blocking",
                ),
            ),
        ),
        Row(
            "Block pool",
            (
                panel(
                    "What blocks hold", "percentunit", "One pool, mean of the replicas: what states take, attention cannot have.",
                    (f"avg by (type) (hybridserve:kv_cache_blocks:utilization{{{REPLICA}}})", "{{type}}"),
                    stack=True, highest=1, limits=((0.9, "orange"),),
                ),
                panel(
                    "Cache in use, as the engine says", "percentunit",
                    "States and attention in one number: it can read near zero with every slot taken.",
                    (f"max by (replica) (vllm:kv_cache_usage_perc{{{REPLICA}}})", "{{replica}}"),
                    highest=1, limits=((0.9, "orange"),),
                ),
                panel(
                    "Memory of the pool", "bytes", "Blocks in use, times the size of a block.",
                    (f"sum by (type) (hybridserve_kv_cache_blocks_used{{{REPLICA}}} * on (replica) group_left hybridserve_kv_cache_block_bytes{{{REPLICA}}})", "{{type}}"),
                    stack=True,
                ),
                panel(
                    "Preemptions", "ops", "Running sequences thrown out because the pool was full.",
                    (f"sum by (replica) (rate(vllm:num_preemptions_total{{{REPLICA}}}[{RATE}]))", "{{replica}}"),
                    limits=((0.1, "red"),), runbook="high-preemption-rate",
                ),
            ),
        ),
        Row(
            "Prefix cache",
            (
                panel(
                    "Hits", "percentunit", "Share of prompt tokens found in the cache. Under 1 % it does nothing.",
                    (f"max by (replica) (hybridserve:prefix_cache:hit_ratio_rate5m{{{REPLICA}}})", "{{replica}}"),
                    highest=1, base="orange", limits=((0.01, "green"),), runbook="prefix-cache-ineffective",
                ),
                panel(
                    "Prompts long enough to hit", "reqps",
                    "Only whole blocks are found again: shorter prompts never hit, and nothing is broken.",
                    (f"sum by (cacheable) (rate(hybridserve_prompts_total{{{REPLICA}}}[{RATE}]))", "{{cacheable}}"),
                    stack=True,
                ),
                panel(
                    "Shortest prefix that can hit", "short", "Tokens: one block, which a hybrid model makes long.",
                    f"max(hybridserve_prefix_cacheable_min_tokens{{{REPLICA}}})", kind="stat",
                ),
                panel(
                    "Cache is inert", "bool_yes_no", "Yes: no prompt that is taken can ever hit.",
                    f"max(hybridserve_prefix_cache_ineffective{{{REPLICA}}})", kind="stat", limits=((1, "orange"),),
                    runbook="prefix-cache-ineffective",
                ),
            ),
        ),
        Row(
            "Plan against reality",
            (
                panel(
                    "Fields that differ", "short", "0 when the engine's cache is as planned.",
                    f"max(hybridserve_plan_mismatched_fields{{{REPLICA}}})", kind="stat", limits=((1, "red"),),
                    runbook="plan-drift",
                ),
                panel(
                    "Real over planned", "percentunit", "100 % where the plan holds; red where the engine has less.",
                    (f'max by (field) (hybridserve_plan_value{{{REPLICA}, source="engine"}}) / max by (field) (hybridserve_plan_value{{{REPLICA}, source="plan"}})', "{{field}}"),
                    base="red", limits=((1, "green"),), runbook="plan-drift",
                ),
                panel(
                    "Blocks", "short", "Planned, and made by the engine.",
                    (f'max by (source) (hybridserve_plan_value{{{REPLICA}, field="num_gpu_blocks"}})', "{{source}}"),
                ),
            ),
        ),
    ),
)  # fmt: skip


def latency(section: TelemetrySection) -> Dashboard:
    """Limits are the targets of the settings."""
    first, between = ((section.slo_ttft_s, "red"),), ((section.slo_inter_token_s, "red"),)
    return Dashboard(
        "latency",
        "hybridserve / Latency and throughput",
        "Each phase of a request, and the tokens of each.",
        (
            Row(
                "What users feel",
                (
                    panel(
                        "Time to first token", "s", "From the engine's door: the proxy's time is not in it.",
                        *quantiles("vllm:time_to_first_token_seconds"),
                        (f'max(hybridserve_slo_target_seconds{{{REPLICA}, slo="ttft"}})', "target"),
                        limits=first, runbook="ttft-budget-burn",
                    ),
                    panel(
                        "Time between tokens", "s", "Mean of each request. The engine's first bucket ends at 10 ms.",
                        *quantiles("vllm:request_time_per_output_token_seconds"),
                        (f'max(hybridserve_slo_target_seconds{{{REPLICA}, slo="inter_token"}})', "target"),
                        limits=between, runbook="inter-token-budget-burn",
                    ),
                    panel(
                        "Whole request", "s", "From arrival to the last token.",
                        *quantiles("vllm:e2e_request_latency_seconds"),
                    ),
                ),
            ),
            Row(
                "Where the time goes",
                (
                    panel(
                        "Queue", "s", "Waiting for a slot and blocks. The engine's first bucket ends at 0.3 s.",
                        *quantiles("vllm:request_queue_time_seconds"), limits=first, runbook="ttft-budget-burn",
                    ),
                    panel("Prefill", "s", "Computing the prompt.", *quantiles("vllm:request_prefill_time_seconds")),
                    panel("Decode", "s", "From the first token to the last.", *quantiles("vllm:request_decode_time_seconds")),
                    panel(
                        "Mean of each phase", "s", "Of one request, exact.",
                        *(
                            (f"sum(rate(vllm:request_{phase}_time_seconds_sum{{{REPLICA}}}[{RATE}])) / (sum(rate(vllm:request_{phase}_time_seconds_count{{{REPLICA}}}[{RATE}])) > 0)", phase)
                            for phase in ("queue", "prefill", "decode")
                        ), stack=True,
                    ),
                ),
            ),
            Row(
                "Tokens",
                (
                    panel(
                        "Prompt tokens, by source", "short", "Per second: computed here, or found in the cache.",
                        (f"sum by (source) (rate(vllm:prompt_tokens_by_source_total{{{REPLICA}}}[{RATE}]))", "{{source}}"), stack=True,
                    ),
                    panel(
                        "Output tokens", "short", "Per second and replica.",
                        (f"sum by (replica) (rate(vllm:generation_tokens_total{{{REPLICA}}}[{RATE}]))", "{{replica}}"), stack=True,
                    ),
                    panel(
                        "How requests end", "reqps", "Sequences by the engine's reason.",
                        (f"sum by (finished_reason) (rate(vllm:request_success_total{{{REPLICA}}}[{RATE}]))", "{{finished_reason}}"), stack=True,
                    ),
                ),
            ),
        ),
    )  # fmt: skip
