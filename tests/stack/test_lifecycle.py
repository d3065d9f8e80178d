"""Start and stop: every started process ends, the port is free. Most other modules here stop theirs by SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from support.stack_service import HYBRIDSERVE, Service, free_port, living

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_interrupt_ends_every_process_and_frees_the_port(start_service: Callable[..., Service]) -> None:
    port = free_port()
    service = start_service(port=port)
    family = service.family()
    names = [" ".join([process.name(), *process.cmdline()[:5]]) for process in family]
    # The core's title is not always visible in /proc; then it has its fork server's command line.
    assert any("EngineCor" in name or "forkserver" in name for name in names), names
    assert any("gcs_server" in name for name in names), names
    assert httpx.get(f"{service.url}/health", timeout=30).status_code == 200
    assert service.stop(signal.SIGINT) == 0
    assert living(family) == []
    assert is_free(port)


def test_stop_during_start_leaves_no_process() -> None:
    process = subprocess.Popen(
        [str(HYBRIDSERVE), "serve", "--port", str(free_port())], stderr=subprocess.PIPE, text=True
    )
    service = Service(process, url="", model="", cache="", ready_s=0, log=Path(os.devnull))
    assert process.stderr is not None
    for line in process.stderr:
        if "starting the engine" in line:
            break
    time.sleep(3)  # the replica has begun, the engine core is being imported
    family = service.family()
    assert len(family) > 5
    assert service.stop() == 0
    assert living(family) == []


def test_used_port_is_one_error_before_any_start() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        run = subprocess.run(
            [str(HYBRIDSERVE), "serve", "--port", str(port)], capture_output=True, text=True, timeout=60
        )
    assert run.returncode == 2
    assert f"127.0.0.1:{port} is already in use by" in run.stderr
    assert "--port" in run.stderr
    assert "Traceback" not in run.stderr
