"""Images and compose projects under a real Docker engine."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from compose_file import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import docker_tools

FIGURES = docker_tools.CACHE / "figures.json"
CPU, CONTROL, LOADTEST = (f"hybridserve:0.1.0-{kind}" for kind in ("cpu", "control", "loadtest"))
PROMETHEUS_IMAGE = "hybridserve-test/prometheus:2.42.0"
START_S = 240.0
"""Budget of a container, from its start until it is healthy."""


def record(name: str, value: float, unit: str) -> None:
    """Keep a measured figure for docs/evidence/containers.md (scripts/container_figures.py)."""
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps({**figures, name: [round(value, 1), unit]}, indent=1) + "\n")
    print(f"{name}: {value:.1f} {unit}")


@contextmanager
def build_options(base: str = docker_tools.BASE_IMAGE) -> Iterator[list[str]]:
    """Options for a build on the bootstrapped base, with the host's pip configuration and certificates as secrets."""
    with _wheels() as pip_conf:
        words = ["--network", "host", "--build-arg", f"BASE_IMAGE={base}", "--secret", f"id=pip_conf,src={pip_conf}"]
        if authorities := os.environ.get("SSL_CERT_FILE"):
            words += ["--secret", f"id=ca,src={authorities}"]
        yield words


def build(dockerfile: str, tag: str, *options: str, base: str = docker_tools.BASE_IMAGE) -> None:
    """Build one image."""
    with build_options(base) as given:
        words = ["docker", "build", "--progress", "plain", "--build-arg", f"REVISION={_commit()}", *given, *options]
        ran = subprocess.run(
            [*words, "-f", dockerfile, "-t", tag, "."],
            cwd=ROOT,
            env=docker_tools.environment(),
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 0, ran.stderr[-3000:]
    if tag.startswith("hybridserve:"):
        record(f"size of `{tag}`", int(docker("image", "inspect", "--format", "{{.Size}}", tag)) / 1e6, "MB")


def docker(*words: str, check: bool = True) -> str:
    """Standard output of a docker command."""
    ran = docker_tools.run("docker", *words, check=False)
    assert ran.returncode == 0 or not check, ran.stderr
    return ran.stdout.strip()


@dataclass
class Project:
    """One compose project of docker-compose.yml, with its own name and ports."""

    name: str
    environ: dict[str, str] = field(default_factory=dict)

    def compose(self, *words: str, profiles: tuple[str, ...] = (), **extra: str) -> subprocess.CompletedProcess[str]:
        command = ["docker-compose", "--ansi", "never", "-p", self.name]
        command += [word for profile in profiles for word in ("--profile", profile)]
        environ = {**docker_tools.environment(), **self.environ, **extra}
        return subprocess.run(
            [*command, *words],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=500,
            stdin=subprocess.DEVNULL,
        )

    def up(self, *options: str, services: tuple[str, ...] = (), **extra: Any) -> None:
        ran = self.compose("up", "--no-build", "--pull", "never", "--wait", *options, *services, **extra)
        assert ran.returncode == 0, f"{ran.stderr[-2000:]}\n{self.logs()}"

    def down(self) -> subprocess.CompletedProcess[str]:
        return self.compose("down", "--volumes", "--remove-orphans", "--timeout", "60", profiles=("*",))

    def logs(self) -> str:
        return self.compose("logs", "--tail", "40", profiles=("*",)).stdout[-6000:]

    def containers(self, service: str) -> list[str]:
        return docker(
            "ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}",
            "--filter", f"label=com.docker.compose.service={service}",
        ).split()  # fmt: skip

    def leftovers(self) -> dict[str, list[str]]:
        """Containers, networks and volumes with the project's label."""
        label = f"label=com.docker.compose.project={self.name}"
        return {
            "containers": docker("ps", "-aq", "--filter", label).split(),
            "networks": docker("network", "ls", "-q", "--filter", label).split(),
            "volumes": docker("volume", "ls", "-q", "--filter", label).split(),
        }


def chat(port: int, question: str = "What is this?") -> str:
    """The demo model's answer."""
    body = {"model": "demo", "messages": [{"role": "user", "content": question}], "temperature": 0}
    response = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def failed_with_one_line(ran: subprocess.CompletedProcess[str], what: str) -> None:
    """Check that the command failed with one line that contains the text."""
    assert ran.returncode != 0
    assert len([line for line in ran.stderr.splitlines() if what in line]) == 1, ran.stderr


def free_port(count: int = 1) -> int:
    """The first of `count` consecutive free ports."""
    for first in range(28100, 29000, count):
        if _all_free(first, count):
            return first
    raise OSError("no free port")


def until(what: str, done: Callable[[], bool], seconds: float) -> float:
    """Wait for a condition; returns the seconds that it took."""
    started = time.monotonic()
    while not done():
        assert time.monotonic() - started < seconds, f"{what}: not after {seconds:g} s"
        time.sleep(0.5)
    return time.monotonic() - started


def _all_free(first: int, count: int) -> bool:
    with ExitStack() as stack:
        try:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


@contextmanager
def _wheels() -> Iterator[Path]:
    """A pip.conf for inside a build; wheels of PIP_FIND_LINKS are served over loopback."""
    wheels = Path(os.environ.get("PIP_FIND_LINKS", "/nonexistent"))
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *words: handler(*words, directory=str(wheels)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    lines = ["[global]", "timeout = 180"]
    if wheels.is_dir():
        lines.append(f"find-links = http://127.0.0.1:{server.server_address[1]}/")
    if os.environ.get("SSL_CERT_FILE"):
        lines.append("cert = /etc/ssl/certs/build-ca.crt")
    file = docker_tools.CACHE / "pip.conf"
    file.write_text("\n".join(lines) + "\n")
    try:
        yield file
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
