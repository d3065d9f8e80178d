"""Response of a forwarded route that generates no text."""

from __future__ import annotations

from hybridserve.gateway.context import RequestContext
from hybridserve.gateway.errors import clean_error, send_json
from hybridserve.gateway.headers import returned_headers
from hybridserve.gateway.types import Event


class CleanedResponse:
    """`send` for the app: adds the gateway's headers, and removes tracebacks from errors."""

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self._error_headers: list[tuple[bytes, bytes]] | None = None
        self._error_body: list[bytes] = []

    async def __call__(self, message: Event) -> None:
        context = self._context
        if message["type"] == "http.response.start":
            context.status = message["status"]
            headers = returned_headers(message.get("headers", ())) + context.headers
            if context.status >= 400:
                self._error_headers = headers
            else:
                await context.send({**message, "headers": headers})
        elif self._error_headers is None:
            await context.send(message)
        else:
            self._error_body.append(message.get("body", b""))
            if not message.get("more_body", False):
                body = clean_error(context.status, b"".join(self._error_body), context.route.errors)
                replaced = (b"content-length", b"content-type")
                headers = [pair for pair in self._error_headers if pair[0].lower() not in replaced]
                await send_json(context.send, context.status, body, headers)
