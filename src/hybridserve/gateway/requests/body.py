"""The client's line as the app sees it, and a call of the app that always ends in the engine's abort."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from hybridserve.gateway.errors import APIError
from hybridserve.gateway.types import App, Event, Receive, Scope, Send

# How long an app may take to notice that its client is gone.
_GRACE_S = 5.0


class BufferedReceive:
    """`receive` for the app: the body once, then nothing until the client hangs up, or we do."""

    __slots__ = ("_body", "_hung_up", "_receive", "_waiter", "client_gone")

    def __init__(self, receive: Receive, body: bytes) -> None:
        self._receive = receive
        self._body: bytes | None = body
        self._hung_up = False
        self._waiter: asyncio.Future[None] | None = None
        self.client_gone = False

    async def __call__(self) -> Event:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if self._hung_up or self.client_gone:
            return {"type": "http.disconnect"}
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        upstream = asyncio.ensure_future(_disconnected(self._receive))
        try:
            await asyncio.wait((upstream, waiter), return_when=asyncio.FIRST_COMPLETED)
            if upstream.done():
                upstream.result()
                self.client_gone = True
        finally:
            upstream.cancel()
            self._waiter = None
        return {"type": "http.disconnect"}

    def hang_up(self) -> None:
        """Tell the app that its client is gone: vLLM aborts the request on that, and on nothing else."""
        self._hung_up = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def run_app(app: App, scope: Scope, line: BufferedReceive, send: Send) -> None:
    """Run the app. Cancelled from outside, it is told of a disconnect first and given time to act on it.

    Ray Serve cancels the task of a request whose client is gone. vLLM then waits on inner tasks that nobody cancels
    (`with_cancellation`), and the engine generates to the end for no one.
    """
    task: asyncio.Task[None] = asyncio.ensure_future(_run(app(scope, line, send)))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            line.hang_up()
            try:
                await asyncio.wait((task,), timeout=_GRACE_S)
            finally:
                if not task.done():
                    task.cancel()
                elif not task.cancelled():
                    task.exception()
        raise


async def _run(call: Awaitable[None]) -> None:
    await call


async def read_body(receive: Receive, limit: int, declared: int | None) -> bytes:
    """The whole request body.

    Raises:
        APIError: 413, more than `limit` bytes, declared or sent.
        ConnectionResetError: the client went away before the end.
    """
    if declared is not None and declared > limit:
        raise _too_large(limit)
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
