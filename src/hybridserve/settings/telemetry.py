"""Section `telemetry`: logs and metrics."""

from __future__ import annotations

from typing import Literal

from hybridserve.settings.section import Section


class TelemetrySection(Section):
    """Logs and metrics."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is written."""
    log_format: Literal["text", "json"] = "text"
    """key=value lines, or one JSON object a line."""
