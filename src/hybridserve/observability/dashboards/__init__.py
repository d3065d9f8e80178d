"""The dashboards as plain data: what they ask, in which unit, and what it means."""

from hybridserve.observability.dashboards.model import Board, Panel, Query, Row
from hybridserve.observability.dashboards.operating import AUTOSCALING, COMPLIANCE, REPLICAS, load_test
from hybridserve.observability.dashboards.serving import HYBRID_CACHE, latency, overview
from hybridserve.settings.telemetry import TelemetrySection


def boards(section: TelemetrySection) -> tuple[Board, ...]:
    """All seven, with the targets of the settings."""
    return (overview(section), HYBRID_CACHE, latency(section), AUTOSCALING, COMPLIANCE, REPLICAS, load_test(section))


__all__ = ["Board", "Panel", "Query", "Row", "boards"]
