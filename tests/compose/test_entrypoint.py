"""The entrypoint says in one line what a container lacks: the real shell, with folders in place of /sys and /dev."""

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
def box(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing is missing; `hybridserve` says what it was called with."""
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


def start(box: dict[str, str], *words: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        ["/bin/sh", ROOT / "deploy" / "entrypoint.sh", *words], env=box, capture_output=True, text=True, timeout=20
    )
    return ran.returncode, ran.stdout, ran.stderr


def refusal(box: dict[str, str], *words: str) -> str:
    code, out, err = start(box, *(words or ("serve",)))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("hybridserve: ")
    assert "; " in err
    return err


def test_nothing_is_missing(box: dict[str, str]) -> None:
    assert start(box, "serve", "--port", "8080") == (0, "started: serve --port 8080\n", "")


def test_other_verbs_are_not_asked_for_memory(box: dict[str, str]) -> None:
    Path(box["CGROUPS"], "memory.max").write_text(f"{64 * MIB}\n")
    assert start(box, "plan", "demo")[1] == "started: plan demo\n"


def test_a_guard_model_is_served_by_vllm(box: dict[str, str]) -> None:
    assert start(box, "vllm", "serve", "org/guard") == (0, "vllm: serve org/guard\n", "")
    assert 'an argument of "vllm serve " is empty; set what is missing in .env' in refusal(box, "vllm", "serve", "")
    Path(box["CGROUPS"], "memory.max").write_text(f"{64 * MIB}\n")
    assert "may use 64 MiB of memory" in refusal(box, "vllm", "serve", "org/guard")


@pytest.mark.parametrize("name", ["HYBRIDSERVE_ACCESS__KEYS_FILE", "HYBRIDSERVE_GUARD__API_KEY_FILE", "HF_TOKEN_PATH"])
def test_secrets(name: str, box: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "secret"
    box[name] = str(file)
    assert f"the secret {file} is missing" in refusal(box)
    file.mkdir()
    assert f"the secret {file} is a folder" in refusal(box)
    file.rmdir()
    file.touch()
    assert f"the secret {file} is empty" in refusal(box)
    file.write_text("x\n")
    assert start(box, "serve")[0] == 0


def test_no_gpu(box: dict[str, str]) -> None:
    box["CONTAINER_NEEDS_GPU"] = "1"
    assert "no GPU is visible in this container; install nvidia-container-toolkit" in refusal(box)
    Path(box["DEVICES"], "nvidiactl").touch()
    assert start(box, "serve")[0] == 0


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_limit(file: str, box: dict[str, str]) -> None:
    Path(box["CGROUPS"], "memory.max").unlink()
    limit = Path(box["CGROUPS"], file)
    limit.write_text(f"{1024 * MIB}\n")
    assert "may use 1024 MiB of memory and needs 4096; raise its limit" in refusal(box)
    for enough in ("max", "9223372036854771712", str(4096 * MIB)):
        limit.write_text(f"{enough}\n")
        assert start(box, "serve")[0] == 0


def test_room(box: dict[str, str]) -> None:
    box["CONTAINER_NEEDS_TMP_MIB"] = str(10**9)
    assert "/tmp has " in refusal(box)


def test_a_folder_that_cannot_be_written() -> None:
    """As nobody, since root may write anywhere; the script comes by stdin: nobody may not read a work tree either."""
    script = (ROOT / "deploy" / "entrypoint.sh").read_text()
    environ = {"PATH": os.environ["PATH"], "CGROUPS": "/nonexistent", "HF_HOME": "/root/models"}
    user = {"user": 65534} if os.geteuid() == 0 else {}
    ran = subprocess.run(
        ["/bin/sh", "-s", "serve"], input=script, env=environ, cwd="/", capture_output=True, text=True, **user
    )
    assert ran.returncode == 2
    assert "/root cannot be written by uid 65534" in ran.stderr


def test_healthcheck() -> None:
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


def test_healthcheck_of_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ran = health(free.getsockname()[1])
    assert ran.returncode == 1
    assert ran.stdout.startswith("no answer")
    assert ran.stdout.count("\n") == 1


def health(port: int) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "HYBRIDSERVE_SERVER__PORT": str(port)}
    script = ROOT / "deploy" / "healthcheck.py"
    return subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, timeout=20)
