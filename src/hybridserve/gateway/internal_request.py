"""Requests from the gateway to the app in the same process, without a socket: tokenize, health, guard self-tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass

from hybridserve.gateway.headers import with_content_length
from hybridserve.gateway.requests.body import BufferedReceive, run_app
from hybridserve.gateway.types import App, Event, Scope

INTERNAL_TOKEN = "hybridserve.internal_token"
"""Scope key that marks a request as the service's own. Clients cannot set it: only code in this process can put an
object into a scope."""


@dataclass(frozen=True, slots=True)
class InternalResponse:
    """A whole response of the app."""

    status: int
    body: bytes

    def json(self) -> Mapping[str, object]:
        """The JSON object in the body; empty if the body is anything else."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


def internal_scope(token: object) -> Scope:
    """Scope template for a request of the service to itself, to be authenticated by `token`."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 0),
        "state": {},
        INTERNAL_TOKEN: token,
    }


async def request_app(app: App, scope: Scope, method: str, path: str, body: object = None) -> InternalResponse:
    """Send a request to the app as a client would.

    Args:
        scope: template for the request's scope; its mount point and app are kept.
    """
    data = b"" if body is None else json.dumps(body).encode()
    headers = [pair for pair in with_content_length(scope["headers"], len(data)) if pair[0] != b"content-type"]
    full = scope.get("root_path", "") + path
    inner = {
        **scope,
        "type": "http",
        "method": method,
        "path": full,
        "raw_path": full.encode(),
        "query_string": b"",
        "headers": [*headers, (b"content-type", b"application/json")],
    }
    status, chunks = 500, []

    async def send(message: Event) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))

    async def receive() -> Event:
        # This client never disconnects; a cancelled caller ends the request through `run_app`.
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    await run_app(app, inner, BufferedReceive(receive, data), send)
    return InternalResponse(status, b"".join(chunks))
