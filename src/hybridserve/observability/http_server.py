"""A small HTTP server for metrics and other short answers, in threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app


def serve_wsgi(host: str, port: int, app: Any) -> int:
    """Serve a WSGI application in a daemon thread, with a thread for each request; returns the port.

    Args:
        port: 0 takes a free one.

    Raises:
        OSError: the port is not free.
    """
    server = make_server(host, port, app, _Server6 if ":" in host else _Server, _QuietHandler)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server.server_port


def text_app(registry: CollectorRegistry) -> Any:
    """The registry in Prometheus' text format, whatever the request accepts.

    prometheus_client 0.26 writes ``vllm:x`` as ``vllm_x`` in the OpenMetrics format that Prometheus 2 accepts.
    """
    app = make_wsgi_app(registry)

    def text(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body: Iterable[bytes] = app({**environ, "HTTP_ACCEPT": "text/plain; version=0.0.4"}, start_response)
        return body

    return text


class _Server(ThreadingMixIn, WSGIServer):
    """A daemon thread per scrape."""

    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    """Does not log scrapes."""

    def log_message(self, *_: Any) -> None:
        return
