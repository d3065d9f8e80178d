"""The control layer's metrics in prometheus_client's default registry, beside the engine's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from hybridserve.observability.metrics import MetricSpec

Metric = TypeVar("Metric", Counter, Gauge, Histogram)


class PrometheusMetrics:
    """The control layer's `Metrics`: counters, gauges and histograms of these specs."""

    def __init__(self, specs: Iterable[MetricSpec], registry: CollectorRegistry = REGISTRY) -> None:
        self._counters: dict[str, _Family[Counter]] = {}
        self._histograms: dict[str, _Family[Histogram]] = {}
        self._gauges: dict[str, _Family[Gauge]] = {}
        for spec in specs:
            if spec.kind == "counter":
                self._counters[spec.name] = _Family(Counter(spec.name, spec.help, spec.labels, registry=registry))
            elif spec.kind == "gauge":
                self._gauges[spec.name] = _Family(Gauge(spec.name, spec.help, spec.labels, registry=registry))
            else:
                self._histograms[spec.name] = _Family(
                    Histogram(spec.name, spec.help, spec.labels, registry=registry, buckets=spec.buckets)
                )

    def count(self, name: str, labels: Mapping[str, str], value: float = 1.0) -> None:
        """Add to a counter."""
        self._counters[name].series(labels).inc(value)

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Put one value, in seconds, into a histogram."""
        self._histograms[name].series(labels).observe(value)

    def set(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Put a gauge to this value."""
        self._gauges[name].series(labels).set(value)


class _Family(Generic[Metric]):
    """A metric and its series. prometheus_client's `labels` checks names under a lock each time: once is enough."""

    __slots__ = ("_metric", "_series")

    def __init__(self, metric: Metric) -> None:
        self._metric: Metric = metric
        self._series: dict[tuple[tuple[str, str], ...], Metric] = {}

    def series(self, labels: Mapping[str, str]) -> Metric:
        index = tuple(labels.items())
        series = self._series.get(index)
        if series is None:
            series = self._series[index] = self._metric.labels(**labels) if labels else self._metric
        return series
