"""Reads the values of prometheus_client objects."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.registry import Collector


def samples(source: Collector) -> dict[str, float]:
    """Sample name with its labels, as in the exposition, to its value."""
    lines = (line.rsplit(" ", 1) for line in generate_latest(source).decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines if "_created" not in name}
