"""An ASGI app that plays the engine, and a client that checks every ASGI message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


def chunk(text: str = "", *, channel: str = "content", index: int = 0, **extra: Any) -> dict[str, Any]:
    delta = {channel: text} if text else {"role": "assistant", "content": ""}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": index, "delta": delta}], **extra}


def sse(payload: object) -> bytes:
    data = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return f"data: {data}\n\n".encode()


DONE = b"data: [DONE]\n\n"


@dataclass
class FakeEngine:
    """Responds to generation requests with a given stream or answer.

    Attributes:
        stream: chunks of a streamed response, sent one by one; a number sleeps, an exception is raised.
        answer: JSON of a response that is not streamed.
        no_end: leave out the last, empty chunk of a stream.
        bodies, paths, headers: what arrived; the headers are those of the last request.
        aborted, finished: generations that ended with a disconnect of the client, and others.
    """

    stream: list[bytes | float | Exception] = field(default_factory=list)
    answer: Any = None
    status: int = 200
    text_error: str | None = None
    delay: float = 0.0
    no_end: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    aborted: int = 0
    finished: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix(scope["root_path"])
        self.paths.append(path)
        self.headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        message = await receive()
        body = json.loads(message["body"] or b"null") if scope["method"] == "POST" else None
        if path == "/tokenize":
            if body.get("model") == "unknown":
                await send_json(send, 404, {"error": {"message": "no such model", "code": 404}})
            else:
                await send_json(send, 200, {"count": len(json.dumps(body)) // 3})
            return
        if not path.startswith("/v1/"):
            await send_json(send, 200, {"path": path})
            return
        if body is not None:
            self.bodies.append(body)
        if self.text_error is not None:
            await send_whole(send, self.status, b"text/plain", self.text_error.encode())
            return
        work = asyncio.ensure_future(self._stream(send) if body and body.get("stream") else self._whole(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if work.done():
            self.finished += 1
            work.result()
        else:
            work.cancel()
            self.aborted += 1

    async def _stream(self, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for piece in self.stream:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, (int, float)):
                await asyncio.sleep(piece)
            else:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not self.no_end:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _whole(self, send: Any) -> None:
        await asyncio.sleep(self.delay)
        await send_json(send, self.status, self.answer)


async def send_json(send: Any, status: int, value: Any) -> None:
    await send_whole(send, status, b"application/json", json.dumps(value).encode())


async def send_whole(send: Any, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass
class Response:
    """What the client received."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json()["error"]

    @property
    def payloads(self) -> list[Any]:
        """The data of all events, parsed strictly."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def done(self) -> bool:
        return "[DONE]" in self.payloads

    def text(self, channel: str = "content") -> str:
        return "".join(
            choice["delta"].get(channel) or ""
            for payload in self.payloads
            if isinstance(payload, dict)
            for choice in payload.get("choices", ())
        )


async def request(
    app: Callable[..., Awaitable[None]],
    path: str = "/v1/chat/completions",
    body: Any = None,
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    raw: bytes | None = None,
    pieces: int = 1,
    disconnect_after: int | None = None,
    disconnect: asyncio.Event | None = None,
    slow: float = 0.0,
    root_path: str = "",
) -> Response:
    """Send one request to the app.

    Args:
        pieces: chunks in which the request body arrives.
        disconnect_after: disconnect after so many chunks of the response.
        disconnect: disconnect when this event is set.
        slow: seconds that the client takes to read a chunk.
    """
    data = raw if raw is not None else (b"" if body is None else json.dumps(body).encode())
    sent_headers = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": method,
        "path": root_path + path,
        "raw_path": (root_path + path).encode(),
        "root_path": root_path,
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in sent_headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    size = max(1, -(-len(data) // pieces))
    parts = [data[i : i + size] for i in range(0, len(data), size)] or [b""]
    result = Response()
    gone = disconnect or asyncio.Event()

    async def receive() -> Any:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if gone.is_set():
            return
        if message["type"] == "http.response.start":
            assert not result.status, "a response starts once"
            result.status = message["status"]
            names = [k.lower() for k, _ in message["headers"]]
            assert len(names) == len(set(names)), f"duplicate header: {names}"
            result.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        assert result.status, "a body before the start"
        assert not result.complete, "a body after the end"
        if message.get("body"):
            if slow:
                await asyncio.sleep(slow)
            result.chunks.append(message["body"])
        result.complete = not message.get("more_body", False)
        if disconnect_after is not None and len(result.chunks) >= disconnect_after:
            gone.set()

    await app(scope, receive, send)
    return result
