"""A model hub on loopback with the API that `huggingface_hub` uses: the demo model's files, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
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
LFS_BYTES = 100_000
"""Larger files are LFS files."""


@dataclass
class FakeHub:
    """The server's URL, its files, its log of requests, and what it does wrong.

    Attributes:
        requests: (path, Range header) of each request.
        cut: path -> bytes after which the connection is closed, one entry for each request.
        flip: paths whose last byte is wrong.
        longer: paths with a byte too many, sent without Content-Length.
        status: path -> statuses of the first responses.
        stall: path -> bytes after which nothing more comes until `resume` is set.
        no_ranges: ignore Range headers.
        listing: replaces the file list.
        page: entries in one page of the file list.
        token: required bearer token.
        redirect: URL of another server that files are redirected to.
        tokens: Authorization header of each request.
    """

    url: str
    files: dict[str, bytes]
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut: dict[str, list[int]] = field(default_factory=dict)
    flip: set[str] = field(default_factory=set)
    longer: set[str] = field(default_factory=set)
    status: dict[str, list[int]] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    resume: threading.Event = field(default_factory=threading.Event)
    no_ranges: bool = False
    listing: Any = None
    page: int = 1000
    token: str | None = None
    redirect: str | None = None
    tokens: list[str | None] = field(default_factory=list)

    def downloads(self) -> list[str]:
        """Paths of the files that were requested, in order."""
        return [path.partition(f"/resolve/{COMMIT}/")[2] for path, _ in self.requests if "/resolve/" in path]

    def ranges(self, file: str) -> list[str | None]:
        """The Range headers of all requests for a file."""
        return [header for path, header in self.requests if path.endswith(f"/resolve/{COMMIT}/{file}")]


def demo_files() -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in sorted(MODEL.iterdir()) if path.is_file()}
    return {**files, "cards/bias.md": b"# Bias\n", "empty.txt": b"", "pytorch_model.bin": b"another format" * 10_000}


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file in the answer of the `tree` endpoint."""
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    listed: dict[str, Any] = {"type": "file", "oid": blob, "size": len(content), "path": path}
    if len(content) > LFS_BYTES:
        listed["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return listed


@contextmanager
def running() -> Iterator[FakeHub]:
    hub = FakeHub("", demo_files())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            hub.requests.append((path, self.headers.get("Range")))
            hub.tokens.append(self.headers.get("Authorization"))
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._send(401, b"", {"X-Error-Code": "GatedRepo"})
            elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
                self._send_listing(path.rpartition("/")[2], url.query)
            elif path == f"/api/models/{REPOSITORY}/revision/main":
                self._send(200, json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode())
            elif path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
                self._send_file(path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/"))
            else:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

        def _send_listing(self, revision: str, query: str) -> None:
            if revision != COMMIT:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return
            entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "cards"}]
            entries += [entry(path, content) for path, content in hub.files.items()]
            if hub.listing is not None:
                entries = hub.listing
            start = int(query.partition("cursor=")[2] or 0)
            stop = start + hub.page
            headers = {}
            if stop < len(entries):
                following = f"{hub.url}/api/models/{REPOSITORY}/tree/{COMMIT}?recursive=true&cursor={stop}"
                headers["Link"] = f'<{following}>; rel="next"'
            body = entries[start:stop] if isinstance(entries, list) else entries
            self._send(200, json.dumps(body).encode(), headers)

        def _send_file(self, path: str) -> None:
            if statuses := hub.status.get(path):
                self._send(statuses.pop(0), b"", {"Retry-After": "0"})
                return
            if hub.redirect is not None:
                self._send(302, b"", {"Location": hub.redirect + self.path})
                return
            if path not in hub.files:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            content = hub.files[path]
            if path in hub.flip:
                content = content[:-1] + bytes([content[-1] ^ 1])
            header = None if hub.no_ranges else self.headers.get("Range")
            start = int(header.removeprefix("bytes=").rstrip("-")) if header else 0
            body = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if path in hub.longer:
                body += b"x"
                self.send_header("Connection", "close")
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sizes = hub.cut.get(path)
            if path in hub.stall:
                self.wfile.write(body[: hub.stall[path]])
                hub.resume.wait(30)
            else:
                self.wfile.write(body[: sizes.pop(0)] if sizes else body)
            self.close_connection = bool(path in hub.stall or path in hub.longer or sizes is not None)

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
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.resume.set()
        server.shutdown()
        thread.join()
        server.server_close()
