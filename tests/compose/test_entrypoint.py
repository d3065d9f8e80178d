"""The entrypoint reports in one line what a container lacks: the real shell, with folders in place of /sys and /dev."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from compose_file import ROOT

MIB = 2**20


@pytest.fixture
def container(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing is missing; the fake `hybridserve` prints its arguments."""
    for folder in ("bin", "cgroup/memory", "dev", "models"):
        (tmp_path / folder).mkdir(parents=True)
    for name, word in (("hybridserve", "started"), ("vllm", "vllm")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho "{word}: $*"\n')
        program.chmod(0o755)
    (tmp_path / "cgroup/memory.max").write_text(f"{8192 * MIB}\n")
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CGROUPS": str(tmp_path / "cgroup"),
        "DEVICES": str(tmp_path / "dev"),
        "HF_HOME": str(tmp_path / "models" / "huggingface"),
    }


def start(container: dict[str, str], *words: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        ["/bin/sh", ROOT / "deploy" / "entrypoint.sh", *words],
        env=container,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return ran.returncode, ran.stdout, ran.stderr


def error_line(container: dict[str, str], *words: str) -> str:
    code, out, err = start(container, *(words or ("serve",)))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("hybridserve: ")
    assert "; " in err
    return err


def test_complete_container_starts_the_service(container: dict[str, str]) -> None:
    assert start(container, "serve", "--port", "8080") == (0, "started: serve --port 8080\n", "")


def test_other_commands_need_no_memory_check(container: dict[str, str]) -> None:
    Path(container["CGROUPS"], "memory.max").write_text(f"{64 * MIB}\n")
    assert start(container, "plan", "demo")[1] == "started: plan demo\n"


def test_guard_model_is_served_by_vllm(container: dict[str, str]) -> None:
    assert start(container, "vllm", "serve", "org/guard") == (0, "vllm: serve org/guard\n", "")
    assert 'an argument of "vllm serve " is empty; set what is missing in .env' in error_line(
        container, "vllm", "serve", ""
    )
    Path(container["CGROUPS"], "memory.max").write_text(f"{64 * MIB}\n")
    assert "may use 64 MiB of memory" in error_line(container, "vllm", "serve", "org/guard")


@pytest.mark.parametrize("name", ["HYBRIDSERVE_ACCESS__KEYS_FILE", "HYBRIDSERVE_GUARD__API_KEY_FILE", "HF_TOKEN_PATH"])
def test_unusable_secret_is_reported(name: str, container: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "secret"
    container[name] = str(file)
    assert f"the secret {file} is missing" in error_line(container)
    file.mkdir()
    assert f"the secret {file} is a folder" in error_line(container)
    file.rmdir()
    file.touch()
    assert f"the secret {file} is empty" in error_line(container)
    file.write_text("x\n")
    assert start(container, "serve")[0] == 0


def test_missing_gpu_is_reported(container: dict[str, str]) -> None:
    container["CONTAINER_NEEDS_GPU"] = "1"
    assert "no GPU is visible in this container; install nvidia-container-toolkit" in error_line(container)
    Path(container["DEVICES"], "nvidiactl").touch()
    assert start(container, "serve")[0] == 0


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_low_memory_limit_is_reported(file: str, container: dict[str, str]) -> None:
    Path(container["CGROUPS"], "memory.max").unlink()
    limit = Path(container["CGROUPS"], file)
    limit.write_text(f"{1024 * MIB}\n")
    assert "may use 1024 MiB of memory and needs 4096; raise its limit" in error_line(container)
    for enough in ("max", "9223372036854771712", str(4096 * MIB)):
        limit.write_text(f"{enough}\n")
        assert start(container, "serve")[0] == 0


def test_missing_disk_space_is_reported(container: dict[str, str]) -> None:
    container["CONTAINER_NEEDS_TMP_MIB"] = str(10**9)
    assert "/tmp has " in error_line(container)


def test_unwritable_folder_is_reported() -> None:
    """As nobody, since root may write anywhere; the script is read from stdin as nobody may not read the work tree."""
    script = (ROOT / "deploy" / "entrypoint.sh").read_text()
    environ = {"PATH": os.environ["PATH"], "CGROUPS": "/nonexistent", "HF_HOME": "/root/models"}
    user = {"user": 65534} if os.geteuid() == 0 else {}
    ran = subprocess.run(
        ["/bin/sh", "-s", "serve"], input=script, env=environ, cwd="/", capture_output=True, text=True, **user
    )
    assert ran.returncode == 2
    assert "/root cannot be written by uid 65534" in ran.stderr


def test_healthcheck_follows_the_ready_route() -> None:
    class Ready(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(self.status if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Ready)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        for status, code in ((200, 0), (503, 1)):
            Ready.status = status
            assert health(server.server_address[1]).returncode == code
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_healthcheck_fails_without_a_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ran = health(free.getsockname()[1])
    assert ran.returncode == 1
    assert ran.stdout.startswith("no response")
    assert ran.stdout.count("\n") == 1


def health(port: int) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "HYBRIDSERVE_SERVER__PORT": str(port)}
    script = ROOT / "deploy" / "healthcheck.py"
    return subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, timeout=20)
