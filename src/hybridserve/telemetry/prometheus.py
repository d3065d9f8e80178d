"""Our metrics in prometheus_client's default registry, beside the engine's own on the replica's `/metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram


class Spec(Protocol):
    """A metric as the control layer describes it."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def help(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def buckets(self) -> tuple[float, ...]: ...


class PrometheusMetrics:
    """The control layer's `Metrics`, and the gauges of the plan."""

    def __init__(self, specs: Iterable[Spec], registry: CollectorRegistry = REGISTRY) -> None:
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._gauges: dict[str, Gauge] = {}
        for spec in specs:
            if spec.kind == "counter":
                self._counters[spec.name] = Counter(spec.name, spec.help, spec.labels, registry=registry)
            elif spec.kind == "gauge":
                self._gauges[spec.name] = Gauge(spec.name, spec.help, spec.labels, registry=registry)
            else:
                self._histograms[spec.name] = Histogram(
                    spec.name, spec.help, spec.labels, registry=registry, buckets=spec.buckets
                )
        self._differences = Gauge(
            "hybridserve_plan_differences", "Fields in which the engine's cache is not as planned.", registry=registry
        )
        self._findings = Gauge(
            "hybridserve_compliance_findings", "Findings of the checks at start.", ["status"], registry=registry
        )

    def count(self, name: str, labels: Mapping[str, str], value: float = 1.0) -> None:
        """Add to a counter."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(value)

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Put one value, in seconds, into a histogram."""
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def set(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Put a gauge to this value."""
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def plan(self, differences: int) -> None:
        """How many fields of the engine's cache are not as planned."""
        self._differences.set(differences)

    def findings(self, counts: Mapping[str, int]) -> None:
        """Findings by status."""
        for status, count in counts.items():
            self._findings.labels(status=status).set(count)
