"""A hub on loopback with the real wire format, serving the demo model's files, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import hybridserve

MODEL = Path(hybridserve.__file__).parent / "demo_model"
REPOSITORY = "hybridserve/demo-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 100_000


@dataclass
class Faults:
    """What the server does wrong.

    Attributes:
        cut: path -> bytes after which the connection is closed, once for each entry.
        flip: paths whose last byte is wrong.
        longer: paths with a byte too many, sent without Content-Length.
        status: path -> statuses to answer first.
        stall: path -> bytes after which nothing more comes until `resume` is set.
        no_ranges: ignore Range headers.
        commit: what X-Repo-Commit says.
        listing: replaces the whole listing.
        page: entries of one page of the listing.
        token: what Authorization must carry.
    """

    cut: dict[str, list[int]] = field(default_factory=dict)
    flip: set[str] = field(default_factory=set)
    longer: set[str] = field(default_factory=set)
    status: dict[str, list[int]] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    resume: threading.Event = field(default_factory=threading.Event)
    no_ranges: bool = False
    commit: str = COMMIT
    listing: Any = None
    page: int = 1000
    token: str | None = None


@dataclass
class Running:
    """The server: its URL, its faults, and what it was asked for."""

    url: str
    files: dict[str, bytes]
    faults: Faults = field(default_factory=Faults)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        return Counter(path for path, _ in self.asked)


def demo_files() -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in sorted(MODEL.iterdir()) if path.is_file()}
    return {**files, "cards/bias.md": b"# Bias\n", "empty.txt": b"", "pytorch_model.bin": b"another form" * 10_000}


def entry(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    told: dict[str, Any] = {"type": "file", "oid": blob, "size": len(content), "path": path}
    if len(content) > LARGE:
        pointer = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        told["lfs"] = pointer
    return told


@contextmanager
def running() -> Iterator[Running]:
    state = Running("", demo_files())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            state.asked.append((path, self.headers.get("Range")))
            token = state.faults.token
            if token and self.headers.get("Authorization") != f"Bearer {token}":
                self._send(401, b"", {"X-Error-Code": "GatedRepo"})
            elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
                self._listing(path.rpartition("/")[2], parts.query)
            elif path == f"/api/models/{REPOSITORY}/revision/main":
                self._send(200, json.dumps({"sha": COMMIT}).encode())
            elif path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
                self._file(path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/"))
            else:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

        def _listing(self, revision: str, query: str) -> None:
            if revision != COMMIT:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return
            entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "cards"}]
            entries += [entry(path, content) for path, content in state.files.items()]
            if state.faults.listing is not None:
                entries = state.faults.listing
            start = int(query.partition("cursor=")[2] or 0)
            stop = start + state.faults.page
            headers = {}
            if stop < len(entries):
                # As a mirror does that copies the hub's own link.
                far = f"https://huggingface.co/api/models/{REPOSITORY}/tree/{COMMIT}?recursive=true&cursor={stop}"
                headers["Link"] = f'<{far}>; rel="next"'
            self._send(200, json.dumps(entries[start:stop]).encode(), headers)

        def _file(self, path: str) -> None:
            faults = state.faults
            if waiting := faults.status.get(path):
                self._send(waiting.pop(0), b"", {"Retry-After": "0"})
                return
            content = state.files.get(path)
            if content is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            if path in faults.flip:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start, total = 0, len(content)
            wanted = self.headers.get("Range")
            if wanted and not faults.no_ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers = {"X-Repo-Commit": faults.commit}
            if start:
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            body = content[start:]
            self.send_response(206 if start else 200)
            for name, value in headers.items():
                self.send_header(name, value)
            if path in faults.longer:
                body += b"x"
                self.send_header("Connection", "close")
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if path in faults.stall:
                self.wfile.write(body[: faults.stall[path]])
                faults.resume.wait(30)
                self.close_connection = True
                return
            if cuts := faults.cut.get(path):
                self.wfile.write(body[: cuts.pop(0)])
                self.close_connection = True
                return
            self.wfile.write(body)
            if path in faults.longer:
                self.close_connection = True

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        state.faults.resume.set()
        server.shutdown()
        thread.join()
        server.server_close()
