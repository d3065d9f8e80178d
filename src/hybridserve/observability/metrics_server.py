"""A metrics port for each process, and a target file for Prometheus.

Behind a proxy ``/metrics`` is that of a different replica at every scrape, and Ray's own export has wrong histogram
sums and drops zero counters. So each process with metrics has its own port. Errors here are only logged: a service
without metrics still serves.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from hybridserve.observability.http_server import serve_wsgi, text_app
from hybridserve.settings.telemetry import TelemetrySection

logger = logging.getLogger(__name__)

# Ports tried, starting at `telemetry.metrics_port`: processes of one machine share the range.
PORTS = 32
_PREFIX = "hybridserve-"


@dataclass(frozen=True, slots=True)
class Exporter:
    """An open metrics port."""

    address: str
    file: Path | None


def export(section: TelemetrySection, registry: CollectorRegistry, labels: Mapping[str, str]) -> Exporter | None:
    """Serve a registry on the first free port and write its target file; None if that is off or fails.

    Args:
        labels: that Prometheus adds to every series; dashboards select by `namespace`, `model` and `replica`.
    """
    if section.metrics_port == 0:
        return None
    port = _listen(section.metrics_host, section.metrics_port, registry)
    if port is None:
        ports = f"{section.metrics_port}-{section.metrics_port + PORTS - 1}"
        logger.warning("metrics_port_unavailable", extra={"host": section.metrics_host, "ports": ports})
        return None
    host = _reachable(section.metrics_host)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    logger.info("metrics_port", extra={"address": address})
    return Exporter(address, announce(section.targets_dir, address, labels))


def announce(folder: Path | None, address: str, labels: Mapping[str, str]) -> Path | None:
    """Write a target file for Prometheus' file_sd, removed at exit, and remove files of dead processes of this host."""
    if folder is None:
        return None
    host, pid = socket.gethostname(), os.getpid()
    file = folder / f"{_PREFIX}{host}-{pid}-{address.rsplit(':', 1)[1]}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        forget_dead(folder)
        # Atomic: Prometheus reads on every change.
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps([{"targets": [address], "labels": dict(labels)}]), encoding="utf-8")
        fresh.replace(file)
    except OSError as error:
        logger.warning("target_file_write_failed", extra={"folder": str(folder), "error": str(error)})
        return None
    atexit.register(_remove, file, pid)
    return file


def forget_dead(folder: Path) -> None:
    """Remove the target files of dead processes of this host: a crashed engine does not remove its file."""
    for file in folder.glob(f"{_PREFIX}{socket.gethostname()}-*.json"):
        pid = file.stem.rsplit("-", 2)[1]
        if pid.isdigit() and not _is_writer(int(pid), file):
            file.unlink(missing_ok=True)


def _is_writer(pid: int, file: Path) -> bool:
    """Whether the process runs and is older than the file: a restarted container uses the same process ids again."""
    import psutil  # `top`, which needs the number of ports only, runs without it

    try:
        # Two seconds for the resolution of both clocks.
        return psutil.Process(pid).create_time() < file.stat().st_mtime + 2
    except (psutil.Error, OSError):
        return False


def _remove(file: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _listen(host: str, first: int, registry: CollectorRegistry) -> int | None:
    for port in range(first, min(first + PORTS, 65536)):
        try:
            return serve_wsgi(host, port, text_app(registry))
        except OSError:
            continue
    return None


def _reachable(host: str) -> str:
    """An address that other hosts can use, in place of a wildcard."""
    if host not in ("0.0.0.0", "::"):
        return host
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"
