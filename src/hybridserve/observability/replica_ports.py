"""Metrics ports of replicas: their samples, and one error for a port of something else that names the right ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from hybridserve.errors import ServiceError
from hybridserve.observability.metrics_server import PORTS
from hybridserve.observability.prometheus_api import get
from hybridserve.settings.telemetry import TelemetrySection

FIRST_PORT: int = TelemetrySection.model_fields["metrics_port"].default
_PROBE_S = 0.5


def read_samples(url: str, timeout_s: float = 2.0) -> list[Sample]:
    """The samples of a metrics port, given with or without ``/metrics``.

    Raises:
        httpx.HTTPError, httpx.InvalidURL, ValueError: no answer, or one that is not metrics.
    """
    address = url if url.endswith("/metrics") else f"{url.rstrip('/')}/metrics"
    text = get(address, timeout_s).text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def one_line(error: Exception) -> str:
    """What an error says: httpx adds lines with addresses of documentation, and has no text for some timeouts."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def not_a_replica(
    where: str, url: str, samples: Iterable[Sample], metric: str, first: int = FIRST_PORT
) -> ServiceError:
    """The error for a port without `metric`: what it has, and the ports of the same host that have it.

    Args:
        where: the option with the address.
        first: first metrics port of the host, as `telemetry.metrics_port`.
    """
    found = _ports_with(metric, url, first)
    fix = (
        f"use {' and '.join(found)}"
        if found
        else "give the address of a replica's metrics port; `hybridserve top` lists those of this machine"
    )
    return ServiceError(where, f"{url} {_content(samples)}, and no metrics of a replica ({metric})", fix)


def _content(samples: Iterable[Sample]) -> str:
    names = sorted({sample.name for sample in samples})
    if any(name.startswith("hybridserve_autoscaler_") for name in names):
        return "has the metrics of the autoscaler"
    if any(name.startswith("vllm:") for name in names):
        return "has vLLM's metrics"
    return f"has {len(names)} metrics, such as {names[0]}" if names else "has no metrics"


def _ports_with(metric: str, url: str, first: int) -> Sequence[str]:
    """Addresses of the same host, in the ranges of ports that its processes try, that have the metric."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    ports = sorted({*range(first, first + PORTS), *range(port := parts.port or first, port + PORTS)})
    addresses = [f"http://{host}:{port}" for port in ports if port < 65536]

    def has(address: str) -> bool:
        try:
            return any(sample.name == metric for sample in read_samples(address, _PROBE_S))
        except (httpx.HTTPError, ValueError):
            return False

    with ThreadPoolExecutor(16) as pool:
        return [address for address, is_one in zip(addresses, pool.map(has, addresses), strict=True) if is_one]
