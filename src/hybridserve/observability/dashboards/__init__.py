"""The dashboards as plain data."""

from hybridserve.observability.dashboards.model import Dashboard, Panel
from hybridserve.observability.dashboards.operating import AUTOSCALING, COMPLIANCE, REPLICAS, load_test
from hybridserve.observability.dashboards.serving import HYBRID_CACHE, latency, overview
from hybridserve.settings.telemetry import TelemetrySection


def dashboards(section: TelemetrySection) -> tuple[Dashboard, ...]:
    """All seven, with the targets of the settings."""
    return (overview(section), HYBRID_CACHE, latency(section), AUTOSCALING, COMPLIANCE, REPLICAS, load_test(section))


__all__ = ["Dashboard", "Panel", "dashboards"]
