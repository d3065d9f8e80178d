"""The scenario of a guard needs a service with a guard: the check before a run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from hybridserve.errors import ServiceError
from hybridserve.loadtest.preflight import preflight
from hybridserve.loadtest.scenario import load_scenario

MODELS = {"data": [{"id": "demo", "max_model_len": 4096}]}


@contextmanager
def service(about: Any) -> Iterator[str]:
    """An API with these answers of /about (None: 404) and of /v1/models."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {"/v1/models": MODELS, "/about": about}.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_service_without_a_guard_is_one_error() -> None:
    with service({"service": "hybridserve", "guard": None}) as url:
        with pytest.raises(ServiceError, match=r"has no guard \(guard.kind is none\).*guard.kind=rules"):
            preflight(url, None, None, load_scenario("guard"))
        assert preflight(url, None, None, load_scenario("chat")).model == "demo"


@pytest.mark.parametrize(
    "about", [{"service": "hybridserve", "guard": {"name": "rules"}}, {"service": "other", "guard": None}, [], None]
)
def test_service_with_a_guard_or_of_another_kind_is_tried(about: Any) -> None:
    with service(about) as url:
        assert preflight(url, None, None, load_scenario("guard")).model == "demo"
