"""Exports the cache, plan and license state of a replica, read from the engine when Prometheus scrapes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from hybridserve.autoscaling.capacity import ReplicaCapacity
from hybridserve.autoscaling.replica_metrics import ReplicaMetrics
from hybridserve.compliance.reviews import last_review
from hybridserve.observability.metrics import EngineMetrics
from hybridserve.settings import Settings

_DAY_S = 86400.0
# Fields of the plan that are numbers under the same name on the engine's side.
PLAN_FIELDS = ("num_gpu_blocks", "block_size", "kv_cache_size_tokens", "kv_cache_max_concurrency", "max_model_len")


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """What does not change while a replica runs.

    Attributes:
        plan: body of ``GET /plan``.
        findings: of the compliance checks at start; None where none ran.
        licenses: body of ``GET /licenses``; None likewise.
        prefix_caching: whether the engine caches prefixes at all.
        build: values of the labels of `hybridserve_build_info`.
    """

    settings: Settings
    capacity: ReplicaCapacity
    plan: Mapping[str, Any]
    findings: Iterable[Mapping[str, Any]] | None
    licenses: Mapping[str, Any] | None
    prefix_caching: bool
    build: Mapping[str, str]

    @property
    def cacheable_min(self) -> float:
        """Shortest prefix, in tokens, that can hit: a unit or a block. The prompt has one more, which is computed."""
        engine = self.plan["engine"]
        return float(engine.get("prefix_match_unit") or engine["block_size"]) if self.prefix_caching else math.inf

    @property
    def prefix_cache_ineffective(self) -> bool:
        """Whether no prompt that the deployment accepts can ever be a cache hit."""
        return self.cacheable_min >= int(self.plan["engine"]["max_model_len"])


class ReplicaCollector(Collector):
    """A prometheus_client collector over a replica.

    Args:
        current: returns the engine's metrics as they are now.
        today: the date that license review ages are counted to.

    Attributes:
        metrics: the exported objects, for collectors that count (`SLOCollector`).
    """

    def __init__(
        self,
        facts: ReplicaFacts,
        current: Callable[[], ReplicaMetrics],
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._facts = facts
        self._current = current
        self._today = today
        self._registry = CollectorRegistry()
        self.metrics = EngineMetrics(self._registry)
        self._set_facts()

    def describe(self) -> Iterator[Metric]:
        """Names, for the registry's check of duplicates; without it a registration would read the engine."""
        for metric in self.metrics.metrics():
            yield from metric.describe()

    def collect(self) -> Iterable[Metric]:
        """Read the engine and return all families."""
        metrics, now = self.metrics, self._current()
        state = min(now.state_blocks_used, now.blocks_used)
        metrics.state_slots_used.set(now.running)
        metrics.kv_cache_blocks_used.labels("state").set(state)
        metrics.kv_cache_blocks_used.labels("attention").set(now.blocks_used - state)
        metrics.engine_stats_age.set(now.age_s)
        metrics.prefill_backlog.set(now.prefill_backlog)
        for field, value in now.numbers().items():
            metrics.scaling_input.labels(field).set(value)
        if self._facts.licenses is not None:
            self._set_review_ages(self._facts.licenses)
        return self._registry.collect()

    def _set_facts(self) -> None:
        facts, metrics, telemetry = self._facts, self.metrics, self._facts.settings.telemetry
        metrics.build_info.labels(**facts.build).set(1)
        metrics.state_slots.set(facts.capacity.state_slots)
        metrics.kv_cache_blocks.set(facts.capacity.usable_blocks)
        plan, engine = facts.plan.get("plan") or {}, facts.plan["engine"]
        if "bytes_per_block" in plan:
            metrics.kv_cache_block_bytes.set(plan["bytes_per_block"])
        else:  # unknown, which is not 0
            self._registry.unregister(metrics.kv_cache_block_bytes)
        for field in PLAN_FIELDS:
            for source, values in (("plan", plan), ("engine", engine)):
                if values.get(field) is not None:
                    metrics.plan_value.labels(field, source).set(float(values[field]))
        metrics.plan_mismatched_fields.set(len(facts.plan["differences"]))
        metrics.prefix_cacheable_min.set(facts.cacheable_min)
        metrics.prefix_cache_ineffective.set(float(facts.prefix_cache_ineffective))
        metrics.slo_target.labels("ttft").set(telemetry.slo_ttft_s)
        metrics.slo_target.labels("inter_token").set(telemetry.slo_inter_token_s)
        metrics.license_review_limit.set(facts.settings.license.max_review_age_days * _DAY_S)
        applied = (finding for finding in facts.findings or () if finding["applies"])
        findings = Counter((finding["severity"], finding["status"]) for finding in applied)
        for labels, count in findings.items():
            metrics.compliance_findings.labels(*labels).set(count)

    def _set_review_ages(self, licenses: Mapping[str, Any]) -> None:
        today = self._today()
        for model in licenses["models"]:
            for license_ in model["licenses"]:
                read = date.fromisoformat(license_["read"])
                days = (today - last_review(self._facts.settings.license, license_["id"], read, today)).days
                self.metrics.license_review_age.labels(license_["id"], model["role"]).set(days * _DAY_S)
