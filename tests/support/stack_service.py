"""A running `hybridserve serve`, started as a user starts it, with the demo model on this CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from hybridserve.runtime.ingress import free_ports

# As in the CPU image, which has no C++ compiler: anything that calls one fails.
NO_COMPILER = {"CXX": "/no-compiler"}
HYBRIDSERVE = Path(sys.executable).parent / "hybridserve"


@dataclass
class Service:
    """A running `hybridserve serve`."""

    process: subprocess.Popen[str]
    url: str
    model: str
    cache: str
    ready_s: float
    log: Path
    to_try: dict[str, str] = field(default_factory=dict)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def metric(self, name: str) -> float:
        """Sum of one metric over its label sets."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " "))]
        assert values, f"{name} is not exported"
        return sum(values)

    def family(self) -> list[psutil.Process]:
        """Every descendant of the command, which adopts orphaned processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it with this signal; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=90)


def free_port() -> int:
    return free_ports(1)[0]


def start(flags: Sequence[str] = (), port: int | None = None, log: Path | None = None) -> Service:
    """Start a service and wait until it reports that it is ready; its standard error goes to `log`."""
    log = log or Path(tempfile.gettempdir()) / f"hybridserve-test-{uuid.uuid4().hex}.log"
    command = [str(HYBRIDSERVE), "serve", "--json", "--port", str(port or free_port()), *flags]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **NO_COMPILER}
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    ready: dict[str, Any] = json.loads(line) if line else {}
    if "url" not in ready:
        process.wait(timeout=60)
        pytest.fail(f"the service did not start: {ready} {log.read_text()[-3000:]}")
    return Service(process, ready["url"], ready["model"], ready["cache"], ready["ready_s"], log, ready["try"])


def living(processes: Sequence[psutil.Process]) -> list[str]:
    """The processes that still run, by name."""
    alive = [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    return [f"{process.pid} {process.name()}" for process in alive]
