"""The response of a generation: moderation by the guard, a valid end of the stream, errors without tracebacks."""

from __future__ import annotations

import asyncio
import json
import re
from time import monotonic
from typing import Any

from hybridserve.gateway.context import RequestContext
from hybridserve.gateway.errors import ENGINE_FAILED, APIError, error_body, read_error
from hybridserve.gateway.headers import first_header, returned_headers
from hybridserve.gateway.requests.api_formats import APIFormat, parse_object
from hybridserve.gateway.responses.moderation_buffer import ModerationBuffer, StreamBlocked
from hybridserve.gateway.responses.response_fields import finished_choices, read_event, read_response
from hybridserve.gateway.responses.stream_terminator import StreamTerminator, total_tokens
from hybridserve.gateway.types import Event
from hybridserve.guards import GuardVerdict
from hybridserve.sse import DONE, SSEDecoder, event_data, split_events

STALLED = "stalled_reader"
# A response that is not streamed is collected up to this size.
_MAX_BODY_BYTES = 64 * 1024 * 1024
# The watchdog ends a process whose engine is dead within a fifth of a second; after this time something blocks it.
_ENGINE_LOST_WAIT_S = 5.0
# Time for the app to end after a disconnect before its send is cancelled.
_CANCEL_SEND_AFTER_S = 0.5
_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed", "message_stop")
# The form of an event's type, which is repeated on its line `event:`.
_EVENT_TYPE = re.compile("[a-z_.]{1,64}")


class GuardedResponse:
    """`send` for the engine's app.

    Attributes:
        status: status sent to the client.
        abort_reason: why the response is incomplete; None if it is complete.
        tokens: total tokens that the engine reported; None if it did not.
    """

    def __init__(self, context: RequestContext) -> None:
        state, request = context.state, context.request
        guard = state.settings.guard
        self.status = 0
        self.abort_reason: str | None = None
        self.tokens: int | None = None
        self._context = context
        self._guard = state.guard if guard.output else None
        self._buffer: ModerationBuffer | None = None
        if self._guard is not None:
            self._buffer = ModerationBuffer(self._check_text, guard.window, guard.overlap_tokens, guard.max_hold_s)
        self._read_usage = context.counts_tokens or request.hide_usage
        self._terminator = StreamTerminator(request.format, self._read_usage, request.hide_usage)
        self._decoder = SSEDecoder()
        self._start: Event = {}
        self._streaming = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._started = False
        self._closed = False
        self._stalled_reader_s = state.settings.access.stalled_reader_s
        self._sending_since: float | None = None
        self._sender: asyncio.Task[Any] | None = None
        self._send_cancelled = False
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, message: Event) -> None:
        if self._closed:
            return
        if message["type"] == "http.response.start":
            # Does not wait for the check of the prompt: vLLM begins to work on a stream after its start was sent.
            self._begin(message)
        elif self._context.input_check is None or await self._input_allowed():
            data, more = message.get("body", b""), message.get("more_body", False)
            await (self._stream(data, more) if self._streaming else self._collect(data, more))

    async def reject(self, error: APIError) -> None:
        """End the response with an error: as a whole response before the first byte, else as the last event."""
        if self._closed:
            return
        self._closed = True
        if self._started:
            self.abort_reason = self.abort_reason or error.reason
            await self._send(_body(error.event(self._context.request.format.errors), more=False))
        else:
            self.status = error.status
            await self._wait_if_engine_lost()
            self._started = True
            await error.send(self._send, self._context.headers, self._context.request.format.errors)
        self._stop_timer()
        self._context.engine_receive.disconnect()

    async def finish(self, failed: bool = False) -> None:
        """End a response that the app left open, in a way that shows that it is incomplete.

        Args:
            failed: the app raised an exception.
        """
        if not self._closed:
            await self._input_allowed()
        if self._streaming:
            self.tokens = self._terminator.tokens
        if self._context.engine_receive.client_gone:
            self.abort_reason = self.abort_reason or "client_gone"
            self._closed = True
        if self._closed:
            pass
        elif not self._streaming:
            message = ENGINE_FAILED if failed else "The engine did not return a complete response."
            await self.reject(APIError(500, "engine_error", message))
        elif self._terminator.done:
            # The app failed after the end of the stream: nothing is missing.
            await self._stream(b"", more=False)
        else:
            await self.reject(_interrupted())
        self._stop_timer()

    # --- checks

    async def _input_allowed(self) -> bool:
        """Wait for the check of the prompt, if it still runs; False if the response has ended."""
        check = self._context.input_check
        if check is not None:
            # Shielded: the app's task may be cancelled here, and the verdict must still be counted.
            verdict = await asyncio.shield(check)
            self._context.input_check = None
            if not verdict.allowed:
                assert self._context.state.guard is not None
                await self.reject(self._context.state.guard.error(verdict, "input"))
                return False
        return not self._closed

    async def _check_text(self, text: str) -> GuardVerdict:
        # Without a check of the prompt, the response is checked alone.
        assert self._guard is not None
        prompt = self._context.request.messages or []
        return await self._guard.check([*prompt, {"role": "assistant", "content": text}], "output")

    async def _judged_message(self, message: str) -> str:
        """The message of an error of the engine, if the guard allows it: the engine may quote the answer in it."""
        if self._guard is None or message == ENGINE_FAILED or (await self._check_text(message)).allowed:
            return message
        return ENGINE_FAILED

    async def _reject_output(self, verdict: GuardVerdict) -> None:
        assert self._guard is not None
        await self.reject(self._guard.error(verdict, "output"))

    # --- start and body

    def _begin(self, message: Event) -> None:
        self.status = message["status"]
        headers = returned_headers(message.get("headers", ()))
        kept = [pair for pair in headers if pair[0] != b"content-length"]  # no longer correct
        self._start = {**message, "headers": [*kept, *self._context.headers]}
        content_type = first_header(headers, b"content-type") or b""
        if self.status < 400 and content_type.startswith(b"text/event-stream"):
            # The start is sent with the first part of the body: until then another replica can take the request over.
            self._streaming = True
            self._schedule_stall_check()

    async def _collect(self, data: bytes, more: bool) -> None:
        self._size += len(data)
        self._chunks.append(data)
        if self._size > _MAX_BODY_BYTES:
            await self.reject(APIError(500, "engine_error", "The engine's response is too large."))
        elif not more:
            await self._whole(b"".join(self._chunks))

    async def _whole(self, body: bytes) -> None:
        headers = self._start["headers"]
        if self.status >= 400:
            headers = [pair for pair in headers if pair[0] != b"content-type"]
            headers.append((b"content-type", b"application/json"))
            error = read_error(self.status, body)
            error["message"] = await self._judged_message(error["message"])
            body = error_body(self.status, error, self._context.request.format.errors)
        elif self._guard is not None or self._read_usage:
            try:
                payload = parse_object(body)
                self.tokens = total_tokens(payload)
                if self._guard is not None:
                    body = await self._judged(payload, body)
            except StreamBlocked as blocked:
                await self._reject_output(blocked.verdict)
                return
            except ValueError:
                await self.reject(APIError(500, "engine_error", ENGINE_FAILED))
                return
        self._start["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
        self._closed = True
        self._context.settle(self.tokens)
        await self._send_start()
        await self._context.send(_body(body, more=False))

    async def _judged(self, payload: dict[str, Any], body: bytes) -> bytes:
        """The body with the fields that may leave, once the guard has allowed their text.

        Raises:
            StreamBlocked: the verdict was not `allow`.
            ValueError: the payload cannot be read.
        """
        kept, texts = read_response(self._context.request.format.name, payload)
        channels: dict[object, str] = {}
        for channel, text in texts:
            channels[channel] = channels.get(channel, "") + text
        for text in channels.values():
            verdict = await self._check_text(text)
            if not verdict.allowed:
                raise StreamBlocked(verdict)
        return body if kept is payload else _dump(kept)

    async def _stream(self, data: bytes, more: bool) -> None:
        terminator = self._terminator
        if terminator.done:
            data = b""  # nothing may follow the end of the stream
        elif self._context.counts_tokens:
            self._context.streamed.feed(data)
        try:
            blob = self._decoder.feed(data) if data else b""
            if self._buffer is not None and blob:
                blob = await self._moderate(self._buffer, blob)
            if blob:
                blob = terminator.feed(blob)
                if terminator.done:
                    # Before the last event is sent: a client that has read it may send its next request before the
                    # app returns, and must find its slot free.
                    self._context.settle(terminator.tokens)
        except StreamBlocked as blocked:
            await self._reject_output(blocked.verdict)
            return
        except ValueError:
            # An event that is too large, or not UTF-8 or JSON where the guard must read it.
            await self.reject(APIError(503, "stream_unreadable", "The engine's stream could not be read."))
            return
        complete = terminator.done or terminator.failed
        if more or not complete:
            if blob:
                await self._send(_body(blob, more=True))
            if not more:
                await self.reject(_interrupted())
            return
        self._closed = True
        self.abort_reason = "engine_error" if terminator.failed else None
        await self._send(_body(blob, more=False))

    async def _moderate(self, buffer: ModerationBuffer, blob: bytes) -> bytes:
        api_format = self._context.request.format
        released = []
        for event in split_events(blob):
            data = event_data(event)
            if data is None:
                # A comment keeps the connection open; its text is not forwarded.
                released.append(b": keep-alive\n\n")
            elif data == DONE:
                released += [await buffer.finish(), event]
            else:
                payload = parse_object(data)
                if payload.get("error"):
                    # The terminator cleans it. Nothing else of this event leaves.
                    error = payload["error"] if isinstance(payload["error"], dict) else {"message": payload["error"]}
                    error = {**error, "message": await self._judged_message(str(error.get("message") or ""))}
                    released += [await buffer.finish(), b"data: " + _dump({"error": error}) + b"\n\n"]
                    continue
                kept, texts = read_event(api_format.name, payload)
                event = _event(event, kept, changed=kept is not payload, api_format=api_format)
                released.append(await buffer.feed(event, texts, finished_choices(payload)))
                if payload.get("type") in _LAST_EVENTS:
                    released.append(await buffer.finish())
        return b"".join(released)

    # --- sending

    async def _send_start(self) -> None:
        await self._wait_if_engine_lost()
        self._started = True
        await self._context.send(self._start)

    async def _wait_if_engine_lost(self) -> None:
        """Before the first byte: send nothing for a dead engine. This process is about to exit; HAProxy then sends the
        request to another replica, whereas it would forward an error to the client."""
        if self._context.state.lifecycle.engine_lost():
            await asyncio.sleep(_ENGINE_LOST_WAIT_S)

    async def _send(self, message: Event) -> None:
        """Send; for a client that reads nothing, raise ConnectionResetError as for a broken connection."""
        self._sending_since, self._sender = monotonic(), asyncio.current_task()
        try:
            if not self._started:
                await self._send_start()
            await self._context.send(message)
        except asyncio.CancelledError:
            if not self._send_cancelled or self._sender is None or self._sender.uncancel() > 0:
                raise  # cancelled by somebody else, or by both
            raise ConnectionResetError("the client reads nothing") from None
        finally:
            self._sending_since = None

    # --- clients that stop reading

    def _schedule_stall_check(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._stalled_reader_s / 2, self._check_stall)

    def _check_stall(self) -> None:
        since = self._sending_since
        if since is None or monotonic() - since < self._stalled_reader_s:
            self._schedule_stall_check()
            return
        self.abort_reason = STALLED
        self._closed = True
        self._context.engine_receive.disconnect()
        self._timer = asyncio.get_running_loop().call_later(_CANCEL_SEND_AFTER_S, self._cancel_send)

    def _cancel_send(self) -> None:
        """A task that waits in `send` gets no disconnect: vLLM's layers pass on only what the layer below has taken."""
        if self._sender is not None and self._sending_since is not None:
            self._send_cancelled = True
            self._sender.cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _body(data: bytes, *, more: bool) -> Event:
    return {"type": "http.response.body", "body": data, "more_body": more}


def _interrupted() -> APIError:
    return APIError(503, "stream_interrupted", "The stream was interrupted before its end.")


def _event(event: bytes, payload: dict[str, Any], *, changed: bool, api_format: APIFormat) -> bytes:
    """The event with this payload, without comments and other lines that the guard does not read.

    Raises:
        ValueError: its type does not look like one.
    """
    name = b""
    if api_format.named_events:
        kind = payload.get("type")
        if not isinstance(kind, str) or not _EVENT_TYPE.fullmatch(kind):
            raise ValueError("an event without a type")
        name = b"event: " + kind.encode() + b"\n"
    if not changed and event.startswith(name + b"data: ") and event.count(b"\n") == 2 + bool(name):
        return event
    return name + b"data: " + _dump(payload) + b"\n\n"


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
