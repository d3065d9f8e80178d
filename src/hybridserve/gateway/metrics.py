"""What the door counts. A tiny protocol, so that any sink can stand behind it; the table is telemetry's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hybridserve.observability.metrics import (
    ADMITTED,
    CANARY_OK,
    CANARY_SECONDS,
    CUT,
    DRAINING,
    GUARD_SECONDS,
    MIDDLEWARE_SECONDS,
    REJECTED,
    TOKENS,
    VERDICTS,
    MetricSpec,
)
from hybridserve.observability.metrics import DOOR as SPECS

__all__ = [
    "ADMITTED",
    "CANARY_OK",
    "CANARY_SECONDS",
    "CUT",
    "DRAINING",
    "GUARD_SECONDS",
    "MIDDLEWARE_SECONDS",
    "REJECTED",
    "SPECS",
    "TOKENS",
    "VERDICTS",
    "MetricSpec",
    "Metrics",
    "NoMetrics",
]


class Metrics(Protocol):
    """Where the numbers go. Names, labels and buckets are those of the table in `telemetry.metrics`."""

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
