"""A model hub of one repository, as far as `hybridserve fetch` asks; the real one is out of reach."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY = "someone/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "tiny"}', "model.safetensors": b"weights" * 1000}


class Hub:
    """What it holds, and how often it was asked. `listed` may differ from `files`: then downloads are damaged."""

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.listed = dict(FILES)
        self.asked = 0
        self.url = ""

    def answer(self, path: str) -> tuple[dict[str, str], bytes] | None:
        path = path.partition("?")[0]
        if path == f"/api/models/{REPOSITORY}/revision/{COMMIT}":
            siblings = [{"rfilename": name} for name in self.files]
            return {}, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()
        if path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            return {}, json.dumps([_entry(name, content) for name, content in self.listed.items()]).encode()
        name = path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
        if name in self.files:
            etag = hashlib.sha256(self.files[name]).hexdigest()
            return {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, self.files[name]
        return None


def _entry(name: str, content: bytes) -> dict[str, object]:
    sha256 = hashlib.sha256(content).hexdigest()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": name, "oid": blob, "size": len(content)}
    if name.endswith(".safetensors"):
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """The hub on a free port of loopback."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.asked += 1
            found = hub.answer(self.path)
            headers, body = found or ({}, b"{}")
            self.send_response(200 if found else 404)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
