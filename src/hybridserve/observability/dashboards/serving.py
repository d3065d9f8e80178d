"""Dashboards of the service itself: overview, the hybrid cache, latency and throughput."""

from __future__ import annotations

from hybridserve.observability.dashboards.model import (
    MODEL,
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
from hybridserve.observability.rules.slo import WINDOWS, objectives
from hybridserve.settings.telemetry import TelemetrySection

_SLOTS = highest("hybridserve:state_slots:utilization", "replica")
_FIRING = f'ALERTS{{alertname=~"HybridServe.*", alertstate="firing", {MODEL}}}'
_FULL = ((0.8, "orange"), (0.95, "red"))


def overview(section: TelemetrySection) -> Dashboard:
    """The first look; targets are those of the settings."""
    slos = objectives(section)
    goals = ", ".join(f"{slo.goal} for {slo.objective:.4g}" for slo in slos)

    def by_slo(recording: str) -> tuple[tuple[str, str], ...]:
        return tuple((f'slo:{recording}{{sloth_id="hybridserve-{slo.name}", {MODEL}}}', slo.name) for slo in slos)

    return dashboard(
        "overview", "Overview", "Whether users are served within the objectives, and by how many replicas.",
        row(
            "Now",
            stat("Replicas", "suffix: replicas", "Replicas that answer Prometheus.", f"count(hybridserve_build_info{{{REPLICA}}})",
                 (1, "green"), base="red", runbook="engine-down"),
            stat("Requests", "reqps", "Generations forwarded to the engine, over five minutes.",
                 total("hybridserve:requests_admitted:rate5m", where=MODEL)[0]),
            stat("Output tokens", "suffix: tokens/s", "Generated per second, over five minutes.",
                 total("hybridserve:generation_tokens:rate5m", where=MODEL)[0]),
            stat("State slots", "percentunit", "Fullest replica. At 100 % requests wait, even if KV-cache blocks are free.",
                 f"max({_SLOTS[0]})", *_FULL, runbook="state-slots-full"),
            stat("TTFT, p95", "s", "Over five minutes; red above the target.",
                 highest("hybridserve:ttft_seconds:p95_rate5m", where=MODEL)[0], (section.slo_ttft_s, "red"),
                 runbook="ttft-budget-burn"),
            stat("Alerts", "suffix: alerts", "HybridServe alerts that are firing.",
                 f"count({_FIRING}) or vector(0)", (1, "red")),
            stat("Rules loaded", "bool_yes_no",
                 "No: panels of objectives, the stats beside this one and two of Hybrid cache stay empty, and there are no "
                 "alerts. Load the rules: monitoring.rules.enabled, or `hybridserve alerts export`.",
                 "group(slo:objective:ratio) or vector(0)", (1, "green"), base="red", runbook="metrics-missing"),
        ),
        row(
            "Alerts",
            panel("Firing alerts", "none", "HybridServe alerts that are firing, by severity.",
                  f"count by (severity, alertname, namespace, release, model, replica) ({_FIRING})", kind="table",
                  rare="no alert may be firing"),
        ),
        row(
            "Objectives",
            panel("Burn rate", "suffix: x", "At 1 the error budget lasts exactly for the period; at 14 for two days.",
                  *by_slo("current_burn_rate:ratio"), limits=((1, "orange"), (6, "red")), runbook="attainment-budget-burn"),
            panel("Bad requests over the last hour", "percentunit", f"Share outside of each objective: {goals}.",
                  *by_slo(f"sli_error:ratio_rate{WINDOWS[2]}")),
            panel("Requests by outcome", "reqps", "Finished requests, by whether they met both latency targets.",
                  rate("hybridserve_requests_slo_total", "outcome"), stack=True),
        ),
        row(
            "Rejected and failed",
            panel("Rejected, by reason", "reqps", "By the gateway: keys, limits, guard, shutdown.",
                  rate("hybridserve_requests_rejected_total", "reason"), stack=True),
            panel("Server errors", "percentunit", "Share of requests that failed because of the service, not the client.",
                  f'slo:sli_error:ratio_rate{WINDOWS[0]}{{sloth_id="hybridserve-availability", {MODEL}}}',
                  limits=((1 - section.slo_availability, "red"),), runbook="availability-budget-burn"),
            panel("Aborted streams", "reqps", "Ended early, by reason. client_gone: the client disconnected.",
                  rate("hybridserve_streams_aborted_total", "reason")),
            panel("Gateway overhead", "s", "Time before the engine receives a request, without guard checks.",
                  *quantiles("hybridserve_gateway_overhead_seconds"), limits=((0.01, "orange"),)),
        ),
    )  # fmt: skip


_BLOCK_MEMORY = (
    f"sum by (type) (hybridserve_kv_cache_blocks_used{{{REPLICA}}} "
    f"* on (replica) group_left hybridserve_kv_cache_block_bytes{{{REPLICA}}})"
)
_ENGINE_VALUE, _PLAN_VALUE = (
    highest("hybridserve_plan_value", "field", f'{REPLICA}, source="{source}"')[0] for source in ("engine", "plan")
)

_HIT, _REUSABLE = (rate(f"hybridserve_prefix_{name}_tokens_total", "replica")[0] for name in ("hit", "reusable"))

_NO_DRAFTS = "needs engine.speculative_config"
_DRAFTED, _ACCEPTED, _STEPS = (
    rate(f"vllm:spec_decode_num_{name}_total", "replica")[0] for name in ("draft_tokens", "accepted_tokens", "drafts")
)
_PREFIX_HITS = highest("hybridserve:prefix_cache:hit_ratio_rate5m", "replica")[0]
_DRAFTING = total("vllm:spec_decode_num_drafts_total", "replica")[0]

HYBRID_CACHE = dashboard(
    "hybrid-cache", "Hybrid cache",
    "State slots, the KV-cache blocks that state and attention share, the prefix cache, and plan against engine.",
    row(
        "State slots",
        panel("State slots", "suffix: slots", "Sequences with a recurrent state, and the number of slots.",
              (total("hybridserve_state_slots_used", "replica")[0], "used {{replica}}"),
              (total("hybridserve_state_slots", "replica")[0], "all {{replica}}")),
        panel("State slots in use", "percentunit", "At 100 % every further request waits.", _SLOTS, highest=1,
              limits=_FULL, runbook="state-slots-full"),
        panel("Waiting requests, by reason", "suffix: requests",
              "capacity: for slots or blocks. deferred: for something that more replicas would not give.",
              total("vllm:num_requests_waiting_by_reason", "reason"),
              stack=True, limits=((1, "orange"),), runbook="head-of-line-blocking"),
    ),
    row(
        "KV-cache blocks",
        panel("Blocks, by type", "percentunit", "Mean of the replicas. Blocks that states take are not free for attention.",
              (f"avg by (type) (hybridserve:kv_cache_blocks:utilization{{{REPLICA}}})", "{{type}}"),
              stack=True, highest=1, limits=((0.9, "orange"),)),
        panel("KV-cache usage reported by vLLM", "percentunit",
              "State and attention in one number: it can be near zero while every slot is taken.",
              highest("vllm:kv_cache_usage_perc", "replica"), highest=1, limits=((0.9, "orange"),)),
        panel("Memory of used blocks", "bytes", "Blocks in use times bytes per block.", (_BLOCK_MEMORY, "{{type}}"),
              stack=True),
        panel("Preemptions", "ops", "Running sequences preempted because no block was free.",
              rate("vllm:num_preemptions_total", "replica"), limits=((0.1, "red"),), runbook="high-preemption-rate"),
    ),
    row(
        "Prefix cache",
        panel("Hit rate", "percentunit", "Share of all prompt tokens found in the cache.",
              highest("hybridserve:prefix_cache:hit_ratio_rate5m", "replica"), highest=1),
        panel("Reusable tokens that hit", "percentunit",
              "Share of the prompt tokens that an ideal cache of this size would have reused.",
              (f"{_HIT} / ({_REUSABLE} > 0)", "{{replica}}"),
              highest=1, base="red", limits=((0.5, "orange"), (0.9, "green")), runbook="prefix-cache-ineffective"),
        panel("Lost reusable tokens, by cause", "suffix: tokens/s", "Reusable tokens that were computed again.",
              rate("hybridserve_prefix_lost_tokens_total", "cause"), stack=True),
        panel("Prompts long enough to hit", "reqps", "Only whole blocks or units are cached: shorter prompts never hit.",
              rate("hybridserve_prompts_total", "cacheable"), stack=True),
        stat("Shortest cacheable prefix", "suffix: tokens", "Tokens of one block, or of prefix_match_unit.",
             highest("hybridserve_prefix_cacheable_min_tokens")[0]),
        stat("Prefix cache ineffective", "bool_yes_no", "Yes: no accepted prompt can ever hit.",
             highest("hybridserve_prefix_cache_ineffective")[0], (1, "orange"), runbook="prefix-cache-ineffective"),
    ),
    row(
        "Draft tokens",
        panel("Accepted drafts", "percentunit", "Share of the draft tokens of speculative decoding that the model confirms.",
              (f"{_ACCEPTED} / ({_DRAFTED} > 0)", "{{replica}}"), highest=1, rare=_NO_DRAFTS),
        panel("Tokens per draft", "suffix: tokens", "Accepted tokens of one draft, and the one that the model adds.",
              (f"1 + {_ACCEPTED} / ({_STEPS} > 0)", "{{replica}}"), rare=_NO_DRAFTS),
        panel("Accepted, by position", "suffix: tokens/s", "Fewer drafts are worth it if later positions are hardly accepted.",
              rate("vllm:spec_decode_num_accepted_tokens_per_pos_total", "position"), rare=_NO_DRAFTS),
        panel("Hit rate, with and without drafts", "percentunit",
              "Prefix cache of the replicas that draft, and of those that do not. Lower with drafts: check the answers too.",
              (f"{_PREFIX_HITS} and on (replica) {_DRAFTING}", "with drafts {{replica}}"),
              (f"{_PREFIX_HITS} unless on (replica) {_DRAFTING}", "without drafts {{replica}}"),
              highest=1, rare=_NO_DRAFTS),
    ),
    row(
        "Plan against engine",
        stat("Fields that differ", "suffix: fields", "0 if the engine's cache is as planned.",
             highest("hybridserve_plan_mismatched_fields")[0], (1, "red"), runbook="plan-drift"),
        panel("Engine / plan", "percentunit", "100 % if the plan is met; red if the engine has less.",
              (f"{_ENGINE_VALUE} / {_PLAN_VALUE}", "{{field}}"), base="red", limits=((1, "green"),), runbook="plan-drift"),
        panel("Number of blocks", "suffix: blocks", "Planned, and reported by the engine.",
              highest("hybridserve_plan_value", "source", f'{REPLICA}, field="num_gpu_blocks"')),
    ),
)  # fmt: skip


def latency(section: TelemetrySection) -> Dashboard:
    """Latency of each phase; thresholds are the targets of the settings."""
    ttft, inter_token = ((section.slo_ttft_s, "red"),), ((section.slo_inter_token_s, "red"),)

    def target(slo: str) -> tuple[str, str]:
        return highest("hybridserve_slo_target_seconds", where=f'{REPLICA}, slo="{slo}"')[0], "target"

    phases = [(mean(f"vllm:request_{phase}_time_seconds"), phase) for phase in ("queue", "prefill", "decode")]
    return dashboard(
        "latency", "Latency and throughput", "Each phase of a request, and its tokens.",
        row(
            "Client-facing latency",
            panel("Time to first token", "s", "Measured in the engine: without the proxy and the gateway.",
                  *quantiles("vllm:time_to_first_token_seconds"), target("ttft"), limits=ttft, runbook="ttft-budget-burn"),
            panel("Time per output token", "s", "Mean of each request. The engine's first bucket ends at 10 ms.",
                  *quantiles("vllm:request_time_per_output_token_seconds"), target("inter_token"),
                  limits=inter_token, runbook="inter-token-budget-burn"),
            panel("End-to-end latency", "s", "From arrival to the last token.",
                  *quantiles("vllm:e2e_request_latency_seconds")),
        ),
        row(
            "Replicas",
            panel("Time to first token, p95 of each replica", "s", "One that is slower than the others has another problem.",
                  *quantiles("vllm:time_to_first_token_seconds", "replica", (0.95,)), limits=ttft),
            panel("Time per output token, p95 of each replica", "s", "A slow GPU is hidden in the sum of all replicas.",
                  *quantiles("vllm:request_time_per_output_token_seconds", "replica", (0.95,)), limits=inter_token),
        ),
        row(
            "Phases",
            panel("Queue", "s", "Waiting for a slot and blocks. The engine's first bucket ends at 0.3 s.",
                  *quantiles("vllm:request_queue_time_seconds"), limits=ttft, runbook="ttft-budget-burn"),
            panel("Prefill", "s", "Computing the prompt.", *quantiles("vllm:request_prefill_time_seconds")),
            panel("Decode", "s", "From the first token to the last.", *quantiles("vllm:request_decode_time_seconds")),
            panel("Mean of each phase", "s", "Exact mean per request.", *phases, stack=True),
        ),
        row(
            "Tokens",
            panel("Prompt tokens, by source", "suffix: tokens/s", "Tokens per second: computed, or found in the cache.",
                  rate("vllm:prompt_tokens_by_source_total", "source"), stack=True),
            panel("Output tokens", "suffix: tokens/s", "Tokens per second, by replica.",
                  rate("vllm:generation_tokens_total", "replica"), stack=True),
            panel("Finish reasons", "reqps", "Finished sequences by the engine's reason.",
                  rate("vllm:request_success_total", "finished_reason"), stack=True),
        ),
    )  # fmt: skip
