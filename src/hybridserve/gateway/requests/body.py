"""Reading of request bodies, and the buffered ASGI receive channel that aborts the engine request on a disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from hybridserve.gateway.errors import APIError
from hybridserve.gateway.types import App, Event, Receive, Scope, Send

# HAProxy gives a body 30 s; without it a client could send one byte after the other for ever.
_BODY_TIMEOUT_S = 60.0
# Time for an app to react to a disconnect before its task is cancelled.
_DISCONNECT_GRACE_S = 5.0


class BufferedReceive:
    """`receive` for the app: the body once, then nothing until the client or the gateway disconnects."""

    __slots__ = ("_body", "_disconnect_requested", "_receive", "_waiter", "client_gone")

    def __init__(self, receive: Receive, body: bytes) -> None:
        self._receive = receive
        self._body: bytes | None = body
        self._disconnect_requested = False
        self._waiter: asyncio.Future[None] | None = None
        self.client_gone = False

    async def __call__(self) -> Event:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if self._disconnect_requested or self.client_gone:
            return {"type": "http.disconnect"}
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        upstream = asyncio.ensure_future(_wait_for_disconnect(self._receive))
        try:
            await asyncio.wait((upstream, waiter), return_when=asyncio.FIRST_COMPLETED)
            if upstream.done():
                upstream.result()
                self.client_gone = True
        finally:
            upstream.cancel()
            self._waiter = None
        return {"type": "http.disconnect"}

    def disconnect(self) -> None:
        """Signal a client disconnect to the app, the only event on which vLLM aborts a request."""
        self._disconnect_requested = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def run_app(app: App, scope: Scope, receive: BufferedReceive, send: Send) -> None:
    """Run the app. If this call is cancelled, the app first gets a disconnect and time to react to it.

    Ray Serve cancels the task of a request whose client is gone. vLLM then waits on inner tasks that nothing cancels
    (`with_cancellation`), and the engine would generate to the end for nobody.
    """
    task: asyncio.Task[None] = asyncio.ensure_future(_as_coroutine(app(scope, receive, send)))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            receive.disconnect()
            try:
                await asyncio.wait((task,), timeout=_DISCONNECT_GRACE_S)
            finally:
                if not task.done():
                    task.cancel()
                elif not task.cancelled():
                    task.exception()
        raise


async def _as_coroutine(call: Awaitable[None]) -> None:
    await call


async def read_body(receive: Receive, limit: int, declared: int | None) -> bytes:
    """Read the whole request body.

    Args:
        limit: largest body, in bytes.
        declared: value of ``content-length``, if any.

    Raises:
        APIError: 413, more than `limit` bytes, declared or sent; 408, it was not complete in time.
        ConnectionResetError: the client disconnected before the end.
    """
    if declared is not None and declared > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            return await _read_all(receive, limit)
    except TimeoutError:
        raise APIError(408, "timeout", f"The request body was not complete within {_BODY_TIMEOUT_S:g} s.") from None


async def _read_all(receive: Receive, limit: int) -> bytes:
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> APIError:
    return APIError(413, "request_too_large", f"The request body is larger than {limit} bytes.")
