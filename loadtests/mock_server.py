"""A server that streams tokens at exact times, to measure the error of a client.

    python loadtests/mock_server.py --port 9000 --first 0.010 --gap 0.005 --tokens 20

It implements GET /v1/models, POST /v1/completions and /v1/chat/completions of the OpenAI API. A request can set times
and faults with the field `mock`: {"first": s, "gap": s, "tokens": n, "stall": [token, s], "cut": token, "idle": token,
"error": token, "status": 400|401|413|429|500|503, "code": text, "usage": false, "reasoning": n, "merge": n,
"split": true}. Times are deadlines from the arrival of the request, so delays do not add up. GET /mock/sent returns
when the tokens of the latest answer were written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from typing import Any

KEY: str | None = None
MODEL = "mock"
EXACT = False
SENT: list[float] = []
"""When the tokens of the latest answer were written, on the machine's monotonic clock."""
DEFAULTS: dict[str, Any] = {}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve the requests of a connection."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            began = asyncio.get_running_loop().time()
            lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            raw = await reader.readexactly(int(headers.get("content-length", 0)))
            if not await answer(writer, lines[0].split(" ")[1], headers, raw, began):
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def answer(writer: asyncio.StreamWriter, path: str, headers: dict[str, str], raw: bytes, began: float) -> bool:
    """Answer a request; False closes the connection."""
    if KEY is not None and headers.get("authorization") != f"Bearer {KEY}":
        return plain(writer, 401, {"error": {"message": "unknown API key", "code": "invalid_api_key"}})
    if path == "/mock/sent":
        return plain(writer, 200, {"sent": SENT})
    if path == "/v1/models":
        model = {"id": MODEL, "object": "model", "max_model_len": 1_000_000}
        return plain(writer, 200, {"object": "list", "data": [model]})
    if not raw:
        return plain(writer, 404, {"error": {"message": f"unknown path {path}", "code": "not_found"}})
    body = json.loads(raw)
    mock = {**DEFAULTS, **body.get("mock", {})}
    if mock.get("status"):
        code = mock.get("code", "mock")
        return plain(
            writer, mock["status"], {"error": {"message": "requested error", "code": code}}, "Retry-After: 7\r\n"
        )
    return await stream(writer, body, mock, path.endswith("chat/completions"), began)


async def stream(
    writer: asyncio.StreamWriter, body: dict[str, Any], mock: dict[str, Any], chat: bool, began: float
) -> bool:
    """Send the tokens, each at its time."""
    SENT.clear()
    tokens = mock["tokens"] or body.get("max_tokens", 16)
    merge, reasoning = mock.get("merge", 1), mock.get("reasoning", 0)
    stall_at, stall = mock.get("stall", (0, 0.0))
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    if chat:
        send(writer, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    for index in range(tokens):
        if (index + 1) % merge and index + 1 < tokens:
            continue
        due = began + mock["first"] + mock["gap"] * index + (stall if stall and index >= stall_at else 0.0)
        await until(due)
        if writer.is_closing():  # the client hung up
            return False
        SENT.append(asyncio.get_running_loop().time())
        if index == mock.get("cut"):
            return False
        if index == mock.get("idle"):
            await asyncio.sleep(3600)
        if index == mock.get("error"):
            send(writer, {"error": {"message": "engine died", "code": 500}})
            writer.write(b"0\r\n\r\n")
            return True
        finish = "length" if index == tokens - 1 else None
        part: dict[str, Any] = {"text": "x"}
        if chat:
            part = {"delta": {"reasoning" if index < reasoning else "content": "x"}}
        send(writer, {"choices": [{"index": 0, **part, "finish_reason": finish}]}, mock.get("split", False))
        if mock.get("split"):
            await writer.drain()
    if mock.get("usage", True):
        usage = {"prompt_tokens": 11, "completion_tokens": tokens, "total_tokens": tokens + 11}
        send(writer, {"choices": [], "usage": usage})
    frame(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def until(due: float) -> None:
    """Sleep until a time. asyncio may be a millisecond late; --exact polls during the last two milliseconds."""
    loop = asyncio.get_running_loop()
    if (wait := due - loop.time() - (0.002 if EXACT else 0.0)) > 0:
        await asyncio.sleep(wait)
    while EXACT and loop.time() < due:
        await asyncio.sleep(0)


def send(writer: asyncio.StreamWriter, event: dict[str, Any], split: bool = False) -> None:
    """Send an event; with `split` in two chunks."""
    data = b"data: " + json.dumps({"id": "mock", "object": "chunk", "model": "mock", **event}).encode() + b"\n\n"
    if split:
        frame(writer, data[:9])
        data = data[9:]
    frame(writer, data)


def frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send an HTTP/1.1 chunk."""
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def plain(writer: asyncio.StreamWriter, status: int, body: dict[str, Any], extra: str = "") -> bool:
    """Send a response that is not a stream."""
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Mock\r\ncontent-type: application/json\r\n{extra}content-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    return True


async def main() -> None:
    """Print the address and serve until stopped."""
    global EXACT, KEY, MODEL
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--first", type=float, default=0.010)
    parser.add_argument("--gap", type=float, default=0.005)
    parser.add_argument("--tokens", type=int, default=0, help="0: max_tokens")
    parser.add_argument("--key")
    parser.add_argument("--model", default=MODEL, help="the served model name")
    parser.add_argument("--exact", action="store_true", help="exact to 0.1 ms, at the cost of a busy core")
    options = parser.parse_args()
    KEY, EXACT, MODEL = options.key, options.exact, options.model
    DEFAULTS.update(first=options.first, gap=options.gap, tokens=options.tokens)
    server = await asyncio.start_server(serve, "127.0.0.1", options.port, backlog=2048, limit=1 << 24)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
