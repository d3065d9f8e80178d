"""A service with planted secrets: none appears in a file, a command line or a response; Ray requires its token."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from hybridserve.gateway.auth.api_keys import key_line, new_key
from support.fake_guard import GuardModel
from support.stack_service import HYBRIDSERVE, Service, start

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(400)]

CHAT = "/v1/chat/completions"
PROMPT = "canary-of-the-prompt-7f3a9"
GUARD_KEY = "canary-of-the-guards-key-51c0"
HUB_TOKEN = "canary-of-the-hub-token-e2d4"
WRONG_KEY = "canary-of-a-wrong-key-90b1-and-long-enough"


@dataclass
class Planted:
    """A service with known secrets, the folder of everything that it writes, and the responses so far."""

    service: Service
    folder: Path
    key: str
    responses: list[str]

    def secrets(self) -> dict[str, str]:
        return {"key": self.key, "prompt": PROMPT, "guard": GUARD_KEY, "hub": HUB_TOKEN, "wrong key": WRONG_KEY}

    def post(self, body: Any, key: str | None = None, path: str = CHAT, **more: Any) -> httpx.Response:
        headers = {
            "content-type": "application/json",
            "authorization": f"Bearer {key or self.key}",
            **more.pop("headers", {}),
        }
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = httpx.post(self.service.url + path, content=content, headers=headers, timeout=60, **more)
        self.responses.append(f"{response.headers} {response.text}")
        return response


def chat(text: str = PROMPT, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "max_tokens": 8, "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture(scope="module")
def planted() -> Iterator[Planted]:
    folder = Path(tempfile.mkdtemp(prefix="s"))  # short: Ray's sockets lie below it, and a socket's path has 107 bytes
    guard, key = GuardModel(), new_key()
    (folder / "keys").write_text(f"{key_line('user', key, ('inference', 'metrics'))}\n")
    (folder / "guard-key").write_text(GUARD_KEY)
    values = {
        "access.keys_file": folder / "keys", "guard.kind": "model", "guard.url": guard.url, "guard.model": guard.name,
        "guard.format": "qwen3guard", "guard.api_key_file": folder / "guard-key", "telemetry.log_level": "debug",
        "access.max_body_bytes": 65536,
    }  # fmt: skip
    flags = [word for path, value in values.items() for word in ("--set", f"{path}={value}")]
    before = dict(os.environ)
    os.environ |= {"TMPDIR": str(folder), "HF_TOKEN": HUB_TOKEN}
    try:
        service = start(["--data-path", "haproxy", *flags], log=folder / "service.log")
    finally:
        os.environ.clear()
        os.environ.update(before)
    planted = Planted(service, folder, key, [])
    try:
        exercise(planted)
        yield planted
    finally:
        code = service.stop()
        guard.close()
        shutil.rmtree(folder)
    assert code == 0


def exercise(planted: Planted) -> None:
    """Requests and checks whose logs or responses might contain a secret."""
    assert planted.post(chat()).status_code == 200
    assert planted.post(chat(stream=True)).status_code == 200
    assert planted.post(chat(), WRONG_KEY).status_code == 401
    assert planted.post(f'{{"messages": "{PROMPT}'.encode()).status_code == 400
    assert planted.post({"model": "demo", "messages": PROMPT}).status_code == 400
    assert planted.post(chat(max_tokens=PROMPT)).status_code == 400
    assert planted.post(chat(temperature=[PROMPT])).status_code == 400
    assert planted.post(chat(PROMPT * 4000)).status_code == 413
    assert planted.post(chat(), path="/invocations").status_code in (401, 403, 404)
    evidence = planted.folder / "evidence.json"
    key_file = planted.folder / "user-key"
    key_file.write_text(planted.key)
    check = subprocess.run(
        [HYBRIDSERVE, "check", "--live", planted.service.url, "--key-file", key_file, "--evidence", evidence, "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    key_file.unlink()
    planted.responses.append(check.stdout + check.stderr)
    assert evidence.exists(), check.stderr
    for path in ("/metrics", "/plan", "/compliance", "/about", "/licenses", "/ready", "/v1/models"):
        response = httpx.get(planted.service.url + path, headers={"authorization": f"Bearer {planted.key}"}, timeout=30)
        planted.responses.append(f"{response.headers} {response.text}")


def test_written_files_contain_no_secret(planted: Planted) -> None:
    """Logs of the service, the engine, Ray and HAProxy, the deployment spec, the evidence; not the given key files."""
    given = {planted.folder / name for name in ("keys", "guard-key")}
    files = [
        path for path in planted.folder.rglob("*") if path.is_file() and not path.is_symlink() and path not in given
    ]
    assert len(files) > 20, "logs of Ray, the engine and the service should be here"
    found = []
    for file in files:
        data = file.read_bytes()
        found += [(name, str(file)) for name, secret in planted.secrets().items() if secret.encode() in data]
    assert found == []


def test_command_lines_contain_no_secret(planted: Planted) -> None:
    lines = []
    for process in planted.service.family():
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    assert len(lines) > 5
    assert [name for name, secret in planted.secrets().items() if any(secret in line for line in lines)] == []


def test_responses_contain_no_secret(planted: Planted) -> None:
    """A client's own prompt may come back to it, in an answer or in an error of the engine; keys never."""
    for text in planted.responses:
        for name, secret in planted.secrets().items():
            assert name == "prompt" or secret not in text, (name, text[:300])


def test_written_files_are_private_to_the_user(planted: Planted) -> None:
    (scratch,) = [path for path in planted.folder.glob("hybridserve-*") if path.is_dir()]
    assert scratch.stat().st_mode & 0o077 == 0
    assert (scratch / "ray-token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "name", ["../../../../etc/passwd", "/etc/passwd", "demo/../../demo", "file:///etc/passwd", "demo\x00", "a" * 10_000]
)
def test_model_name_is_not_used_as_a_path(planted: Planted, name: str) -> None:
    response = planted.post(chat("hello", model=name))
    assert response.status_code == 404
    assert "root:" not in response.text


@pytest.mark.parametrize(
    "path", ["/v1/../admin/drain", "/v1/%2e%2e/admin/drain", "//admin/drain", "/admin/./drain", "/ADMIN/drain"]
)
def test_encoded_admin_paths_are_rejected(planted: Planted, path: str) -> None:
    port = int(planted.service.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {planted.key}\r\nContent-Length: 0\r\n"
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        status = connection.recv(4096).split(b"\r\n")[0]
    assert status.split()[1] in (b"400", b"403", b"404"), status
    assert planted.post(chat("hello")).status_code == 200, "the service was drained"


GCS_QUERY = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=10)))
"""


def test_ray_requires_its_token(planted: Planted) -> None:
    """A query without the token or with a wrong one fails; the same query with the token works."""
    (head,) = [process for process in planted.service.family() if process.name() == "gcs_server"]
    port = next(word.split("=")[1] for word in head.cmdline() if word.startswith("--gcs_server_port="))
    if port == "0":
        port = str(next(c.laddr.port for c in head.net_connections("tcp") if c.status == psutil.CONN_LISTEN))
    (token,) = planted.folder.glob("hybridserve-*/ray-token")

    def query(**environment: str) -> subprocess.CompletedProcess[str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.run(
            [sys.executable, "-c", GCS_QUERY, f"127.0.0.1:{port}"], env=plain | environment,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    known = query(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    assert known.returncode == 0, known.stderr[-1000:]
    assert int(known.stdout.strip().splitlines()[-1]) > 0
    without = query(RAY_AUTH_MODE="disabled")
    assert without.returncode != 0, "Ray answered a query without a token"
    wrong = planted.folder / "wrong-token"
    wrong.write_text("0" * 32)
    assert query(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(wrong)).returncode != 0
