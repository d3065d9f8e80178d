"""One answer on its way out: headers, the guard's window, the end of the stream, errors without tracebacks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Literal

from hybridserve.gateway.errors import ENGINE_FAILED, APIError, clean_error, first_header
from hybridserve.gateway.requests.api_formats import parse_object
from hybridserve.gateway.requests.body import BufferedReceive
from hybridserve.gateway.requests.policy import GenerationRequest
from hybridserve.gateway.responses.moderation_buffer import ModerationBuffer, StreamBlocked
from hybridserve.gateway.responses.stream_terminator import StreamTerminator
from hybridserve.gateway.types import Event, Send
from hybridserve.guards.base import GuardVerdict
from hybridserve.sse import DONE, SSEDecoder, event_data, split_events

Judge = Callable[[str], Awaitable[GuardVerdict]]
# An answer that is not streamed is held whole; beyond this something is wrong.
_MAX_WHOLE = 64 * 1024 * 1024
# The watchdog ends a process whose engine is dead within a fifth of a second; longer than this, something holds it.
_LAST_WORDS_S = 5.0
# Headers of the app's that no longer hold, or that we set ourselves.
_REPLACED = (b"content-length", b"x-request-id", b"server")
STALLED = "stalled_reader"
# For the app to end by itself, once it was told that its client is gone.
_BREAK_OFF_S = 0.5


class GuardedResponse:
    """`send` for the app.

    Args:
        send: the client's.
        line: the app's `receive`; it is hung up when the answer must not go on.
        headers: ours, put on every answer.
        judge: verdict on a piece of the answer, or None where answers are not checked.
        window: the stream's window, or None.
        gate: verdict on the prompt that is still being made while the engine works, or None.
        refuse: the refusal that belongs to a verdict.
        want_usage: read the tokens used.
        stalled_s: a client that takes nothing for so long is hung up on.
        lost: whether this process is about to end because its engine is dead.
        ended: told the tokens used when the engine is through and the last words are about to go out: a client that
            has read them may be back before the app has returned, and must find its place free.
    """

    def __init__(
        self,
        send: Send,
        line: BufferedReceive,
        call: GenerationRequest,
        headers: list[tuple[bytes, bytes]],
        *,
        judge: Judge | None,
        window: ModerationBuffer | None,
        gate: asyncio.Task[GuardVerdict] | None,
        refuse: Callable[[GuardVerdict, str], APIError],
        want_usage: bool,
        stalled_s: float,
        lost: Callable[[], bool],
        ended: Callable[[int | None], object],
    ) -> None:
        self._out = send
        self._line = line
        self._call = call
        self._headers = headers
        self._judge = judge
        self._window = window
        self._gate = gate
        self._refuse = refuse
        self._want_usage = want_usage
        self._stalled = stalled_s
        self._lost = lost
        self._ended = ended
        self._mode: Literal["new", "stream", "whole", "pass"] = "new"
        self._start: Event = {}
        self._chunks: list[bytes] = []
        self._size = 0
        self._decoder = SSEDecoder()
        self._ending = StreamTerminator(call.dialect, want_usage, call.hide_usage)
        self._started = False
        self._closed = False
        self._sending_since: float | None = None
        self._sender: asyncio.Task[Any] | None = None
        self._broken_off = False
        self._watch: asyncio.TimerHandle | None = None
        self.status = 0
        self.cut: str | None = None
        self.tokens: int | None = None

    async def __call__(self, message: Event) -> None:
        if self._closed:
            return
        if message["type"] == "http.response.start":
            # It does not wait for the gate: vLLM starts a stream's work only after its start went out.
            await self._begin(message)
        elif message["type"] == "http.response.body" and await self._gate_open():
            await self._body(message.get("body", b""), message.get("more_body", False))

    async def _gate_open(self) -> bool:
        """Wait for the verdict on the prompt, where it is still out; False ends the answer."""
        if self._gate is not None:
            # Shielded: the app's task may be cancelled here, and the verdict is still wanted for the books.
            verdict = await asyncio.shield(self._gate)
            self._gate = None
            if not verdict.allowed:
                await self.refuse(self._refuse(verdict, "input"))
                return False
        return not self._closed

    async def refuse(self, refusal: APIError) -> None:
        """End the answer with a refusal: a plain one while nothing was sent, else the stream's last event."""
        if self._closed:
            return
        self._closed = True
        if self._started:
            self.cut = self.cut or refusal.reason
            await self._forward({"type": "http.response.body", "body": refusal.event(), "more_body": False})
        else:
            self.status = refusal.status
            await self._while_nobody_waits()
            self._started = True
            await refusal.send(self._forward, self._headers)
        self._stop_watch()
        self._line.hang_up()

    async def finish(self, failed: bool = False) -> None:
        """The app has returned (or raised): whatever it left open is closed in a way that shows."""
        if not self._closed:
            await self._gate_open()
        self.tokens = self._ending.tokens if self._mode == "stream" else self.tokens
        if self._line.client_gone:
            self.cut = self.cut or "client_gone"
            self._closed = True
        if not self._closed:
            if self._mode == "stream" and self._ending.done:
                # It failed after its end: nothing is missing.
                await self._stream(b"", more=False)
            elif self._mode == "stream":
                await self.refuse(_interrupted())
            else:
                message = ENGINE_FAILED if failed else "The engine gave no whole answer."
                await self.refuse(APIError(500, "engine_error", message))
        self._stop_watch()

    async def _begin(self, message: Event) -> None:
        self.status = message["status"]
        headers = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in _REPLACED]
        kind = first_header([(name.lower(), value) for name, value in headers], b"content-type") or b""
        self._start = {**message, "headers": [*headers, *self._headers]}
        if self.status < 400 and kind.startswith(b"text/event-stream"):
            self._mode = "stream"
            # Its start waits for the first piece of its body: until then another replica can take the request over.
            self._schedule_watch()
        else:
            self._mode = "whole"

    async def _open(self) -> None:
        await self._while_nobody_waits()
        self._started = True
        await self._out(self._start)

    async def _while_nobody_waits(self) -> None:
        """Before the first byte: say nothing for an engine that has died. This process is about to end, and HAProxy
        asks another replica where a connection closed without a word; an error it would hand on."""
        if self._lost():
            await asyncio.sleep(_LAST_WORDS_S)

    async def _body(self, data: bytes, more: bool) -> None:
        if self._mode == "stream":
            await self._stream(data, more)
            return
        self._size += len(data)
        self._chunks.append(data)
        if self._size > _MAX_WHOLE:
            await self.refuse(APIError(500, "engine_error", "The engine's answer is too long."))
        elif not more:
            await self._whole(b"".join(self._chunks))

    async def _whole(self, body: bytes) -> None:
        if self.status >= 400:
            self._start["headers"] = [
                (name, value) for name, value in self._start["headers"] if name.lower() != b"content-type"
            ]
            body = clean_error(self.status, body)
            self._start["headers"].append((b"content-type", b"application/json"))
        elif self._judge is not None or self._want_usage:
            try:
                payload = parse_object(body)
            except ValueError:
                await self.refuse(APIError(500, "engine_error", ENGINE_FAILED))
                return
            self.tokens = _total(payload)
            if self._judge is not None:
                for _, text in self._call.dialect.answer(payload):
                    verdict = await self._judge(text)
                    if not verdict.allowed:
                        await self.refuse(self._refuse(verdict, "output"))
                        return
        self._start["headers"].append((b"content-length", str(len(body)).encode()))
        self._closed = True
        self._ended(self.tokens)
        await self._open()
        await self._out({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, data: bytes, more: bool) -> None:
        if self._ending.done:
            data = b""  # what comes after the end belongs to nothing
        try:
            blob = self._decoder.feed(data) if data else b""
            if self._window is not None and blob:
                blob = await self._through_window(self._window, blob)
            if blob:
                blob = self._ending.feed(blob)
                if self._ending.done:
                    self._ended(self._ending.tokens)
        except StreamBlocked as stopped:
            await self.refuse(self._refuse(stopped.verdict, "output"))
            return
        except ValueError:
            # Too large an event, or one that is not UTF-8 or not JSON where a guard must read it.
            await self.refuse(APIError(503, "stream_unreadable", "The engine's stream cannot be read."))
            return
        if more:
            if blob:
                await self._forward({"type": "http.response.body", "body": blob, "more_body": True})
            return
        if not self._ending.done and not self._ending.failed:
            if blob:
                await self._forward({"type": "http.response.body", "body": blob, "more_body": True})
            await self.refuse(_interrupted())
            return
        self._closed = True
        self.cut = "engine_error" if self._ending.failed else None
        await self._forward({"type": "http.response.body", "body": blob, "more_body": False})

    async def _through_window(self, window: ModerationBuffer, blob: bytes) -> bytes:
        out = []
        for event in split_events(blob):
            data = event_data(event)
            if data is None:
                # A comment keeps the connection open; its words are nobody's business.
                out.append(b": keep-alive\n\n")
            elif data == DONE:
                out += [await window.finish(), event]
            else:
                payload = parse_object(data)
                dialect = self._call.dialect
                out.append(await window.feed(event, dialect.delta(payload), dialect.finished(payload)))
                if "error" in payload or _is_last(payload):
                    out.append(await window.finish())
        return b"".join(out)

    async def _forward(self, message: Event) -> None:
        """Send; a client that takes nothing ends it as a broken connection would, for whoever waits here."""
        self._sending_since, self._sender = monotonic(), asyncio.current_task()
        try:
            if not self._started:
                await self._open()
            await self._out(message)
        except asyncio.CancelledError:
            if not self._broken_off or self._sender is None or self._sender.uncancel() > 0:
                raise  # somebody else's, or theirs as well
            raise ConnectionResetError("the client takes nothing") from None
        finally:
            self._sending_since = None

    def _schedule_watch(self) -> None:
        self._watch = asyncio.get_running_loop().call_later(self._stalled / 2, self._look)

    def _look(self) -> None:
        since = self._sending_since
        if since is not None and monotonic() - since >= self._stalled:
            self.cut = STALLED
            self._closed = True
            self._line.hang_up()
            self._watch = asyncio.get_running_loop().call_later(_BREAK_OFF_S, self._break_off)
        else:
            self._schedule_watch()

    def _break_off(self) -> None:
        """Whoever waits to send hears of no disconnect: vLLM's layers pass on what the layer below has taken."""
        if self._sender is not None and self._sending_since is not None:
            self._broken_off = True
            self._sender.cancel()

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


def _interrupted() -> APIError:
    return APIError(503, "stream_interrupted", "The stream was cut off before its end.")


def _is_last(payload: dict[str, Any]) -> bool:
    return payload.get("type") in ("response.completed", "response.incomplete", "response.failed")


def _total(payload: dict[str, Any]) -> int | None:
    usage = payload.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) else None
