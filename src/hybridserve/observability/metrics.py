"""All hybridserve metrics, declared as prometheus_client objects.

Each group is created once per process with the registry that is exported. Without a registry the objects count but are
exported nowhere, which is what tests and tools use. Labels have few values: never a request, a user or a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

Metric = TypeVar("Metric", Counter, Gauge, Histogram)
Source = Literal["gateway", "engine", "autoscaler"]
"""The part that a metric describes. Gateway and engine share a process; the autoscaler runs in Ray Serve's controller,
or in `hybridserve autoscale`."""

_OVERHEAD_BUCKETS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)
_GUARD_BUCKETS = (0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


def labeled(metric: Metric, *values: str) -> Metric:
    """``metric.labels(*values)``, cached: prometheus_client checks the label names under a lock at every call."""
    child: Metric = _child(metric, *values)
    return child


@cache
def _child(metric: Any, *values: str) -> Any:
    return metric.labels(*values)


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """Name, type, help, labels and source of a metric, for the reference table and tests."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    source: Source


class MetricGroup:
    """Metrics that one part of the system exports.

    Args:
        registry: where they are registered; None for nowhere.
    """

    source: ClassVar[Source]

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry

    def metrics(self) -> list[MetricWrapperBase]:
        """Every metric of the group, in the order of declaration."""
        return [value for value in vars(self).values() if isinstance(value, MetricWrapperBase)]

    def describe(self) -> Iterator[MetricInfo]:
        """Describe every metric of the group."""
        for metric in self.metrics():
            (family,) = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield MetricInfo(name, family.type, family.documentation, tuple(metric._labelnames), self.source)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"hybridserve_{name}", documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(f"hybridserve_{name}", documentation, labels, registry=self.registry)

    def _histogram(self, name: str, documentation: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"hybridserve_{name}", documentation, labels, registry=self.registry, buckets=buckets)


class GatewayMetrics(MetricGroup):
    """What the gateway counts for each request."""

    source = "gateway"

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)
        self.requests_rejected = self._counter(
            "requests_rejected_total", "Requests rejected by the gateway, by reason.", "route", "reason"
        )
        self.requests_admitted = self._counter("requests_admitted_total", "Requests forwarded to the engine.", "route")
        self.streams_aborted = self._counter(
            "streams_aborted_total", "Responses that ended early, by reason.", "reason"
        )
        self.rate_limited_tokens = self._counter(
            "rate_limited_tokens_total", "Prompt and output tokens charged against token limits."
        )
        self.guard_verdicts = self._counter(
            "guard_verdicts_total", "Guard verdicts, by outcome.", "guard", "stage", "outcome"
        )
        self.guard_check_duration = self._histogram(
            "guard_check_duration_seconds",
            "Duration of one guard check in seconds, retries included.",
            "guard",
            "stage",
            buckets=_GUARD_BUCKETS,
        )
        self.gateway_overhead = self._histogram(
            "gateway_overhead_seconds",
            "Time in the gateway before the engine receives a request, in seconds, without guard checks.",
            "route",
            buckets=_OVERHEAD_BUCKETS,
        )
        self.guard_canary_ok = self._gauge(
            "guard_canary_ok",
            "1 if the last guard self-test prompt of this kind had the expected result, else 0.",
            "kind",
        )
        self.guard_canary_latency = self._histogram(
            "guard_canary_latency_seconds",
            "Duration of one guard self-test prompt in seconds; the engine answers the one that passes.",
            "kind",
            buckets=_GUARD_BUCKETS,
        )
        self.keys_file_broken = self._gauge(
            "keys_file_broken", "1 while the key file is malformed or missing, so that only removals apply, else 0."
        )
        self.compliance_lapses = self._gauge(
            "compliance_lapses", "Findings that would refuse a start now, at the last check of the running service."
        )
        self.compliance_closed = self._gauge(
            "compliance_closed",
            "1 while requests are rejected because such a finding is older than license.grace_days.",
        )
        self.limits_ledger_lost = self._gauge(
            "limits_ledger_lost",
            "1 while this replica cannot reach the ledger of shared limits and applies its share of each, else 0.",
        )
        self.verify_passed = self._gauge(
            "verify_passed", "1 if the engine passed the numeric check at its start, 0 if it failed.", "against"
        )
        self.verify_deviation = self._gauge(
            "verify_deviation",
            "Mean deviation of log-probabilities in one condition of the numeric check, and its limit.",
            "condition",
            "value",
        )
        self.draining = self._gauge("draining", "1 while the replica shuts down and rejects new generations.")


class EngineMetrics(MetricGroup):
    """Cache, plan and license state of a replica; set by `ReplicaCollector`, SLO counters by `SLOCollector`."""

    source = "engine"

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)
        gauge, counter = self._gauge, self._counter
        self.build_info = gauge(
            "build_info", "Always 1; the labels are versions and settings.", "version", "vllm", "ray", "mode", "profile"
        )
        self.state_slots = gauge(
            "state_slots", "Sequences that can run at once: state slots that fit, at most max_num_seqs."
        )
        self.state_slots_used = gauge("state_slots_used", "Sequences that occupy a state slot now.")
        self.kv_cache_blocks = gauge(
            "kv_cache_blocks", "Blocks of the cache that state and attention share, without the null block."
        )
        self.kv_cache_blocks_used = gauge("kv_cache_blocks_used", "KV-cache blocks in use, by type.", "type")
        self.kv_cache_block_bytes = gauge(
            "kv_cache_block_bytes", "Bytes of one KV-cache block over all layers of its group."
        )
        self.engine_stats_age = gauge(
            "engine_stats_age_seconds", "Seconds since the engine last reported statistics; 0 while it is idle."
        )
        self.prefill_backlog = gauge(
            "prefill_backlog_tokens",
            "Estimated prompt tokens not yet computed: waiting requests times the mean prompt.",
        )
        self.scaling_input = gauge(
            "scaling_input", "What the scaling policy reads of this replica, for scaling without Ray.", "field"
        )
        self.plan_value = gauge(
            "plan_value", "A quantity as planned and as the engine reports it, by source.", "field", "source"
        )
        self.plan_mismatched_fields = gauge(
            "plan_mismatched_fields", "Fields in which the engine's cache differs from the plan."
        )
        self.prefix_cacheable_min = gauge(
            "prefix_cacheable_min_tokens", "Shortest prefix that can be a cache hit; +Inf if prefix caching is off."
        )
        self.prefix_cache_ineffective = gauge(
            "prefix_cache_ineffective",
            "1 if no prompt can be a cache hit: prefix caching is off, or one block exceeds max_model_len.",
        )
        self.prompts = counter(
            "prompts_total", "Finished prompts, by whether they are long enough to be cached.", "cacheable"
        )
        self.prefix_reusable_tokens = counter(
            "prefix_reusable_tokens_total",
            "Prompt tokens of finished requests that an ideal cache of the same size would have reused: hit and lost.",
        )
        self.prefix_hit_tokens = counter(
            "prefix_hit_tokens_total", "Prompt tokens of finished requests that came from the prefix cache."
        )
        self.prefix_lost_tokens = counter(
            "prefix_lost_tokens_total", "Reusable prompt tokens that were computed again, by cause.", "cause"
        )
        self.requests_slo = counter(
            "requests_slo_total",
            "Finished requests, by whether they met both latency targets; requests aborted by the client do not count.",
            "outcome",
        )
        self.slo_target = gauge("slo_target_seconds", "Latency target from the settings, in seconds.", "slo")
        self.compliance_findings = gauge(
            "compliance_findings",
            "Findings of the compliance checks at start, of rules that apply.",
            "severity",
            "status",
        )
        self.license_review_age = gauge(
            "license_review_age_seconds",
            "Seconds since a license text was last reviewed, for the catalog or by who accepted it.",
            "license",
            "role",
        )
        self.license_review_limit = gauge(
            "license_review_limit_seconds", "Maximum age of a license review from the settings, in seconds."
        )


class AutoscalerMetrics(MetricGroup):
    """Decisions of the scaling policy; set by `record_decision`."""

    source = "autoscaler"

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return self._gauge(f"autoscaler_{name}", documentation, *labels)

        self.desired_replicas = gauge("desired_replicas", "Replicas that the scaling policy wants, within its limits.")
        self.target_replicas = gauge("target_replicas", "Number of replicas last requested.")
        self.ready_replicas = gauge("ready_replicas", "Replicas that are running.")
        self.replicas_without_metrics = gauge(
            "replicas_without_metrics", "Running replicas whose metrics are missing or stale."
        )
        self.replica_limit = gauge("replica_limit", "Configured limits of the number of replicas.", "limit")
        self.demand_replicas = gauge(
            "demand_replicas", "Replicas, as a fraction, that the demand for each resource requires.", "resource"
        )
        self.decisions = self._counter(
            "autoscaler_decisions_total", "Scaling decisions, by direction and cause.", "direction", "cause"
        )
        self.errors = self._counter(
            "autoscaler_errors_total", "Scaling decisions that raised an error; the number of replicas was kept."
        )
        self.dry_run = gauge("dry_run", "1 if scaling decisions are only logged.")


def all_metrics() -> tuple[MetricInfo, ...]:
    """Describe every hybridserve metric of a deployment."""
    return tuple(info for group in (GatewayMetrics, EngineMetrics, AutoscalerMetrics) for info in group().describe())
