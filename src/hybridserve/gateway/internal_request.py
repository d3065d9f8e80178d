"""Questions to the app itself, in this process and without a socket: how long is this prompt, are you well."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass

from hybridserve.gateway.requests.body import BufferedReceive, run_app
from hybridserve.gateway.types import App, Event, Scope


@dataclass(frozen=True, slots=True)
class InternalResponse:
    """A whole answer of the app."""

    status: int
    body: bytes

    def json(self) -> Mapping[str, object]:
        """The JSON object of the body; empty where it is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


async def request_app(app: App, scope: Scope, method: str, path: str, body: object = None) -> InternalResponse:
    """Ask the app as if a client did.

    Args:
        scope: an ASGI scope to model the question on; its mount point and app are kept.
    """
    data = b"" if body is None else json.dumps(body).encode()
    headers = [(name, value) for name, value in scope["headers"] if name not in (b"content-length", b"content-type")]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    full = scope.get("root_path", "") + path
    inner = {
        **scope,
        "type": "http",
        "method": method,
        "path": full,
        "raw_path": full.encode(),
        "query_string": b"",
        "headers": headers,
    }
    status, chunks = 500, []

    async def send(message: Event) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))

    async def receive() -> Event:
        # Nobody hangs up on a question; a cancelled caller ends it through `call_app`.
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    await run_app(app, inner, BufferedReceive(receive, data), send)
    return InternalResponse(status, b"".join(chunks))
