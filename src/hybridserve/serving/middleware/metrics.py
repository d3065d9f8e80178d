"""What the door counts. A tiny protocol, so that prometheus_client or Ray's metrics can stand behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

_LATENCY = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)
_GUARD = (0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric of ours: enough to register it anywhere."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REJECTED = MetricSpec(
    "hybridserve_requests_rejected_total",
    "counter",
    "Requests that the control layer refused, by reason.",
    ("route", "reason"),
)
ADMITTED = MetricSpec("hybridserve_requests_admitted_total", "counter", "Requests passed on to the engine.", ("route",))
CUT = MetricSpec(
    "hybridserve_streams_cut_total",
    "counter",
    "Streams that did not end as a stream should, by reason.",
    ("reason",),
)
TOKENS = MetricSpec(
    "hybridserve_metered_tokens_total", "counter", "Prompt and output tokens charged against token limits."
)
VERDICTS = MetricSpec(
    "hybridserve_guard_verdicts_total", "counter", "Verdicts of the guard.", ("guard", "stage", "outcome")
)
GUARD_SECONDS = MetricSpec(
    "hybridserve_guard_seconds", "histogram", "Time for one verdict, retries included.", ("guard", "stage"), _GUARD
)
MIDDLEWARE_SECONDS = MetricSpec(
    "hybridserve_middleware_seconds",
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
SPECS = (
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


class Metrics(Protocol):
    """Where the numbers go. Names, labels and buckets are those of `SPECS`."""

    def count(self, name: str, labels: Mapping[str, str], value: float = 1.0) -> None:
        """Add to a counter."""
        ...

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Put one value, in seconds, into a histogram."""
        ...

    def set(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Put a gauge to this value."""
        ...


class NoMetrics:
    """Drops everything."""

    def count(self, name: str, labels: Mapping[str, str], value: float = 1.0) -> None:
        return

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None:
        return

    def set(self, name: str, labels: Mapping[str, str], value: float) -> None:
        return
