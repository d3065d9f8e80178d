"""The control layer's metrics in prometheus_client's default registry, beside the engine's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from hybridserve.telemetry.metrics import MetricSpec


class PrometheusMetrics:
    """The control layer's `Metrics`: counters, gauges and histograms of these specs."""

    def __init__(self, specs: Iterable[MetricSpec], registry: CollectorRegistry = REGISTRY) -> None:
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
