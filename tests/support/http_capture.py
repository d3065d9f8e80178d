"""A real HAProxy with the hardened configuration of Ray, in front of replicas that respond as a test defines."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hybridserve.runtime.ingress import free_ports, ray_environment
from hybridserve.settings import Settings

PROGRAM = Path(sys.executable).with_name("hybridserve-haproxy")

# Writes the configuration of Ray 2.60's HAProxyManager for replicas on these ports.
_GENERATE = """
import sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
folder, port, *replicas = sys.argv[1:]
cfg = HAProxyConfig(http_options=HTTPOptions(host="127.0.0.1", port=int(port)), socket_path=folder + "/a")
cfg.server_state_base, cfg.server_state_file, cfg.metrics_socket_path = folder, folder + "/state", folder + "/m"
servers = [ServerConfig(name="r" + one, host="127.0.0.1", port=int(one)) for one in replicas]
backend = BackendConfig(name="app", path_prefix="/", app_name="app", servers=servers)
api = HAProxyApi(cfg=cfg, backend_configs={"app": backend}, config_file_path=folder + "/haproxy.cfg")
api._generate_config_file_internal()
"""


@dataclass
class Replica:
    """Reads complete requests, records them, and lets `answer` write to the connection."""

    answer: Callable[[socket.socket, bytes], None]
    seen: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):  # closed before
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            try:
                data = b""
                while b"\r\n\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        return
                    data += more
                head, body = data.split(b"\r\n\r\n", 1)
                if head.startswith(b"GET /-/healthz"):
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nOK")
                    return
                length = next(
                    (int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x[:15] == b"content-length:"), 0
                )
                while len(body) < length:
                    body += connection.recv(65536)
                self.seen.append(head + b"\r\n\r\n" + body)
                self.answer(connection, body)
            except OSError:
                return


def responds(text: str) -> Callable[[socket.socket, bytes], None]:
    """Sends a complete response with this body."""

    def answer(connection: socket.socket, _: bytes) -> None:
        data = text.encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data))

    return answer


class HAProxy:
    """HAProxy on a free port in front of these replicas' ports."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.port = free_ports(1)[0]
        environment = ray_environment("haproxy", Settings(), str(PROGRAM), folder)
        words = [sys.executable, "-c", _GENERATE, str(folder), str(self.port), *map(str, ports)]
        subprocess.run(words, check=True, env=environment | {"PATH": "/usr/bin:/bin", "HOME": str(folder)}, timeout=120)
        self._log = (folder / "haproxy.log").open("wb")
        self._process = subprocess.Popen(
            [PROGRAM, "-db", "-f", str(folder / "haproxy.cfg")], stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, (folder / "haproxy.log").read_text()
                time.sleep(0.05)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._log.close()

    def raw(self, data: bytes, timeout_s: float = 5.0) -> bytes:
        """The response to these bytes, until the other side closes or sends nothing for `timeout_s`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout_s) as connection:
            connection.sendall(data)
            connection.settimeout(timeout_s)
            answer = b""
            try:
                while more := connection.recv(65536):
                    answer += more
            except OSError:
                pass
            return answer

    def post(self, body: bytes, *headers: str) -> bytes:
        """One request to the chat route on a new connection."""
        lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}"]
        return self.raw("\r\n".join([*lines, *headers, "", ""]).encode() + body)
