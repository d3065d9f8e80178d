"""Every metric of ours in one table: what the exporters register, and what dashboards and rules may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "histogram", "gauge"]
Where = Literal["door", "replica", "controller"]
"""`door` and `replica` are one process, the engine's; `controller` is Ray Serve's, where the scaling law runs."""

_LATENCY = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)
_GUARD = (0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric of ours: enough to register it anywhere.

    Attributes:
        help: one sentence, with the unit where the name does not say it.
        labels: each with few values; never a request, a user or a text.
        where: the process that exports it.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    where: Where = "door"


REJECTED = MetricSpec(
    "hybridserve_requests_rejected_total",
    "counter",
    "Requests that the control layer refused, by reason.",
    ("route", "reason"),
)
ADMITTED = MetricSpec("hybridserve_requests_admitted_total", "counter", "Requests passed on to the engine.", ("route",))
CUT = MetricSpec(
    "hybridserve_streams_aborted_total",
    "counter",
    "Streams that did not end as a stream should, by reason.",
    ("reason",),
)
TOKENS = MetricSpec(
    "hybridserve_rate_limited_tokens_total", "counter", "Prompt and output tokens charged against token limits."
)
VERDICTS = MetricSpec(
    "hybridserve_guard_verdicts_total", "counter", "Verdicts of the guard.", ("guard", "stage", "outcome")
)
GUARD_SECONDS = MetricSpec(
    "hybridserve_guard_check_duration_seconds",
    "histogram",
    "Time for one verdict, retries included.",
    ("guard", "stage"),
    _GUARD,
)
MIDDLEWARE_SECONDS = MetricSpec(
    "hybridserve_gateway_overhead_seconds",
    "histogram",
    "Time of the control layer itself before the engine sees a request; guards not counted.",
    ("route",),
    _LATENCY,
)
CANARY_OK = MetricSpec(
    "hybridserve_guard_canary_ok",
    "gauge",
    "1 when the last canary of this kind came back as it must, 0 when not.",
    ("kind",),
)
CANARY_SECONDS = MetricSpec(
    "hybridserve_guard_canary_latency_seconds",
    "histogram",
    "Time for one canary of the repeated pair; the passing one is answered by the engine.",
    ("kind",),
    _GUARD,
)
DRAINING = MetricSpec("hybridserve_draining", "gauge", "1 while no new generations are taken because of a shutdown.")

DOOR = (
    REJECTED,
    ADMITTED,
    CUT,
    TOKENS,
    VERDICTS,
    GUARD_SECONDS,
    MIDDLEWARE_SECONDS,
    CANARY_OK,
    CANARY_SECONDS,
    DRAINING,
)


def _replica(name: str, help_text: str, *labels: str, kind: Kind = "gauge") -> MetricSpec:
    return MetricSpec(f"hybridserve_{name}", kind, help_text, labels, where="replica")


BUILD = _replica("build_info", "Always 1; the labels say what runs.", "version", "vllm", "ray", "mode", "profile")
SLOTS = _replica("state_slots", "Sequences that can run at once: state copies that fit, at most max_num_seqs.")
SLOTS_USED = _replica("state_slots_used", "Sequences that hold a state slot now.")
POOL = _replica("kv_cache_blocks", "Blocks of the one pool that states and attention share, without the null block.")
POOL_USED = _replica("kv_cache_blocks_used", "KV-cache blocks in use, by type.", "type")
BLOCK_BYTES = _replica("kv_cache_block_bytes", "Size of one block of the pool over all layers of its group.")
READING_AGE = _replica("engine_stats_age_seconds", "Since the engine last spoke; 0 while it is idle.")
BACKLOG = _replica(
    "prefill_backlog_tokens", "Prompt tokens not yet computed, an estimate: requests that wait, at the mean prompt."
)
PLAN_VALUE = _replica("plan_value", "A planned quantity, and what the engine made of it.", "field", "source")
PLAN_DIFFERENCES = _replica("plan_mismatched_fields", "Fields in which the engine's cache is not as planned.")
CACHEABLE_MIN = _replica(
    "prefix_cacheable_min_tokens", "Shortest prefix that can ever be found in the cache; +Inf when caching is off."
)
CACHE_INERT = _replica(
    "prefix_cache_ineffective",
    "1 when no prompt that this deployment takes can hit: caching off, or no room for one block.",
)
PROMPTS = _replica(
    "prompts_total", "Finished prompts, by whether they were long enough to be cached.", "cacheable", kind="counter"
)
SLO_REQUESTS = _replica(
    "requests_slo_total",
    "Finished requests against both latency targets at once; those that their client left are not counted.",
    "outcome",
    kind="counter",
)
SLO_TARGET = _replica("slo_target_seconds", "Latency that is still good, from the settings.", "slo")
FINDINGS = _replica("compliance_findings", "Findings of the checks at start.", "severity", "status")
LICENSE_AGE = _replica(
    "license_review_age_seconds", "Since somebody last read the license's text for the registry.", "license", "role"
)

REPLICA = (
    BUILD,
    SLOTS,
    SLOTS_USED,
    POOL,
    POOL_USED,
    BLOCK_BYTES,
    READING_AGE,
    BACKLOG,
    PLAN_VALUE,
    PLAN_DIFFERENCES,
    CACHEABLE_MIN,
    CACHE_INERT,
    PROMPTS,
    SLO_REQUESTS,
    SLO_TARGET,
    FINDINGS,
    LICENSE_AGE,
)


def _scaling(name: str, help_text: str, *labels: str, kind: Kind = "gauge") -> MetricSpec:
    return MetricSpec(f"hybridserve_autoscaler_{name}", kind, help_text, labels, where="controller")


DESIRED = _scaling("desired_replicas", "Replicas the law wants, within its bounds.")
TARGET = _scaling("target_replicas", "Replicas that Ray Serve was last told to have.")
READY = _scaling("ready_replicas", "Replicas that run.")
SILENT = _scaling("replicas_without_metrics", "Replicas that run and have given no fresh reading.")
BOUND = _scaling("replica_limit", "Replica limits in force.", "limit")
DEMAND = _scaling("demand_replicas", "Replicas, as a fraction, that each resource asks for by itself.", "resource")
DECISIONS = _scaling(
    "decisions_total", "Decisions, by direction and class of reason.", "direction", "reason", kind="counter"
)
FAULTS = _scaling("errors_total", "Decisions that failed inside; the number was held.", kind="counter")
DRY_RUN = _scaling("dry_run", "1 when decisions are only logged.")

CONTROLLER = (DESIRED, TARGET, READY, SILENT, BOUND, DEMAND, DECISIONS, FAULTS, DRY_RUN)

ALL = (*DOOR, *REPLICA, *CONTROLLER)
"""The whole table."""
