"""What a replica says of its cache, its plan and its papers, computed when it is scraped and never in between."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hybridserve.autoscaling.capacity import ReplicaCapacity
from hybridserve.autoscaling.replica_metrics import ReplicaMetrics
from hybridserve.observability import metrics as m
from hybridserve.observability.collectors.slo import SLOCollector
from hybridserve.observability.metrics import MetricSpec
from hybridserve.settings import Settings

# Fields of the plan that are numbers under the same name on the engine's side.
PLAN_FIELDS = ("num_gpu_blocks", "block_size", "kv_cache_size_tokens", "kv_cache_max_concurrency", "max_model_len")


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """What does not change while a replica runs.

    Attributes:
        plan: body of ``GET /plan``.
        findings: of the checks at start; None where nobody has judged.
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
        """Shortest prefix, in tokens, that can hit: one whole block. Its prompt has a token more, which is computed."""
        return float(self.plan["engine"]["block_size"]) if self.prefix_caching else math.inf

    @property
    def inert(self) -> bool:
        """No prompt that is taken can ever hit."""
        return self.cacheable_min >= int(self.plan["engine"]["max_model_len"])


class ReplicaCollector(Collector):
    """A prometheus_client collector over a replica.

    Args:
        reading: the engine as it is now.
        outcomes: counts of finished requests.
        today: the date that ages are counted to.
    """

    def __init__(
        self,
        facts: ReplicaFacts,
        reading: Callable[[], ReplicaMetrics],
        outcomes: SLOCollector,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._facts = facts
        self._reading = reading
        self._outcomes = outcomes
        self._today = today

    def describe(self) -> Iterator[Metric]:
        """Names, for the registry's check of duplicates; without it a registration would read the engine."""
        return (_family(spec, ()) for spec in m.REPLICA)

    def collect(self) -> Iterator[Metric]:
        """All families of `metrics.REPLICA`."""
        return (_family(spec, rows) for spec, rows in self._rows())

    def _rows(self) -> Iterator[tuple[MetricSpec, Iterable[tuple[tuple[str, ...], float]]]]:
        facts, now = self._facts, self._reading()
        capacity, telemetry = facts.capacity, facts.settings.telemetry
        yield m.BUILD, [(tuple(facts.build[label] for label in m.BUILD.labels), 1)]
        yield m.SLOTS, [((), capacity.state_slots)]
        yield m.SLOTS_USED, [((), now.running)]
        yield m.POOL, [((), capacity.usable_blocks)]
        state = min(now.state_blocks_used, now.blocks_used)
        yield m.POOL_USED, [(("state",), state), (("attention",), now.blocks_used - state)]
        plan = facts.plan.get("plan") or {}
        if "bytes_per_block" in plan:
            yield m.BLOCK_BYTES, [((), plan["bytes_per_block"])]
        yield m.READING_AGE, [((), now.age_s)]
        yield m.BACKLOG, [((), now.prefill_backlog)]
        yield m.PLAN_VALUE, list(_sides(plan, facts.plan["engine"]))
        yield m.PLAN_DIFFERENCES, [((), len(facts.plan["differences"]))]
        yield m.CACHEABLE_MIN, [((), facts.cacheable_min)]
        yield m.CACHE_INERT, [((), float(facts.inert))]
        yield m.PROMPTS, [((word,), count) for word, count in self._outcomes.prompts.items()]
        yield m.SLO_REQUESTS, [((word,), count) for word, count in self._outcomes.requests.items()]
        yield m.SLO_TARGET, [(("ttft",), telemetry.slo_ttft_s), (("inter_token",), telemetry.slo_inter_token_s)]
        if facts.findings is not None:
            counts = Counter((finding["severity"], finding["status"]) for finding in facts.findings)
            yield m.FINDINGS, list(counts.items())
        if facts.licenses is not None:
            yield m.LICENSE_AGE, list(self._ages(facts.licenses))

    def _ages(self, licenses: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
        for part in licenses["models"]:
            for one in part["licenses"]:
                days = (self._today() - date.fromisoformat(one["read"])).days
                yield (one["id"], part["role"]), days * 86400.0


def _sides(plan: Mapping[str, Any], engine: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
    for field in PLAN_FIELDS:
        for source, values in (("plan", plan), ("engine", engine)):
            if values.get(field) is not None:
                yield (field, source), float(values[field])


def _family(spec: MetricSpec, rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    family = kind(spec.name, spec.help, labels=spec.labels)
    for labels, value in rows:
        family.add_metric(labels, value)
    return family
