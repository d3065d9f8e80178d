"""A real HAProxy between raw sockets: retries, stickiness of idempotency keys, and request smuggling."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.http_capture import HAProxy, Replica, responds

pytestmark = pytest.mark.timeout(120)
BODY = b'{"messages": []}'


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Callable[..., HAProxy]]:
    made: list[HAProxy | Replica] = []

    def factory(*replicas: Replica) -> HAProxy:
        made.extend(replicas)
        made.append(HAProxy(tmp_path, [replica.port for replica in replicas]))
        return made[-1]  # type: ignore[return-value]

    yield factory
    for server in reversed(made):
        server.close()


def resets(connection: socket.socket, _: bytes) -> None:
    """As a process that is killed: a reset without any byte."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def closes(connection: socket.socket, _: bytes) -> None:
    """As a process that exits."""


def resets_during_stream(connection: socket.socket, _: bytes) -> None:
    connection.sendall(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
    )
    time.sleep(0.3)
    resets(connection, b"")


@pytest.mark.parametrize("failure", [resets, closes])
@pytest.mark.parametrize("size", [16, 100_000])
def test_request_without_response_byte_is_retried(front: Callable[..., HAProxy], failure: object, size: int) -> None:
    """Requests without a session take the servers in the order of the ring, where one may follow itself."""
    bad, good = Replica(failure), Replica(responds("whole"))  # type: ignore[arg-type]
    haproxy = front(bad, good)
    sent = 0
    while not bad.seen:
        assert sent < 20, "the failing replica received no request"
        answer = haproxy.post(b"x" * size)
        assert answer.endswith(b"whole"), answer[:200]
        sent += 1
    assert len(good.seen) == sent, "each request was answered once"


def test_request_is_retried_only_once(front: Callable[..., HAProxy]) -> None:
    first, second = Replica(resets), Replica(resets)
    answer = front(first, second).post(BODY)
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b" 503 " in head.split(b"\r\n")[0]
    assert b"retry-after" in head.lower()
    assert json.loads(body)["error"]["code"] == "engine_unavailable"
    assert len(first.seen) + len(second.seen) == 2


def test_request_is_not_retried_after_the_first_byte(front: Callable[..., HAProxy]) -> None:
    first, second = Replica(resets_during_stream), Replica(resets_during_stream)
    answer = front(first, second).post(BODY)
    assert b"data: 1" in answer
    assert b"0\r\n\r\n" not in answer, "an aborted chunked body must not look complete"
    assert len(first.seen) + len(second.seen) == 1


def test_missing_replica_is_reported_at_once(front: Callable[..., HAProxy]) -> None:
    gone = Replica(responds("never"))
    haproxy = front(gone)
    gone.close()
    began = time.monotonic()
    answer = haproxy.post(BODY)
    assert b"engine_unavailable" in answer
    assert time.monotonic() - began < 3


def test_idempotency_key_stays_with_its_replica(front: Callable[..., HAProxy]) -> None:
    replicas = [Replica(responds(name)) for name in ("a", "b", "c")]
    haproxy = front(*replicas)
    for ident in ("one", "two", "three"):
        answers = {haproxy.post(BODY, f"Idempotency-Key: {ident}")[-1:] for _ in range(6)}
        assert len(answers) == 1, answers
    assert len({haproxy.post(BODY)[-1:] for _ in range(30)}) == 3


# Bytes that a proxy and a server might parse as different requests.
INNER = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = {
    "length and chunks": START + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    "chunks and length": START + b"Transfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n0\r\n\r\n" + INNER,
    "two lengths": START + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "a list of lengths": START + b"Content-Length: 0, %d\r\n\r\n" % len(INNER) + INNER,
    "a signed length": START + b"Content-Length: +%d\r\n\r\n" % len(INNER) + INNER,
    "a length in hex": START + b"Content-Length: 0x10\r\n\r\n" + INNER,
    "an empty length": START + b"Content-Length:\r\n\r\n" + INNER,
    "chunked in disguise": START + b"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n" + INNER,
    "chunked with a tab": START + b"Transfer-Encoding:\tchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + INNER,
    "a space before the colon": START + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + INNER,
    "a folded header": START + b"X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    "a bare line feed": START + b"X-A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    "a zero byte": START + b"X-A: b\x00c\r\nContent-Length: 0\r\n\r\n" + INNER,
    "a line in the path": b"GET /v1/models\rX: y HTTP/1.1\r\nHost: x\r\n\r\n" + INNER,
    "a bad chunk size": START + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n" + INNER,
    "a huge chunk size": START + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n" + INNER,
}


@pytest.fixture(scope="module")
def haproxy_and_uvicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HAProxy, list[tuple[str, bytes]]]]:
    """HAProxy in front of vLLM's HTTP server (uvicorn), with an app that records its requests."""
    import threading

    import uvicorn

    seen: list[tuple[str, bytes]] = []

    async def app(scope: dict, receive: object, send: Callable) -> None:  # type: ignore[type-arg]
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()  # type: ignore[operator]
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if not scope["path"].startswith("/-/"):
            seen.append((f"{scope['method']} {scope['path']}", body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    front = HAProxy(tmp_path_factory.mktemp("front"), [listener.getsockname()[1]])
    yield front, seen
    front.close()
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("name", SMUGGLED)
def test_smuggled_request_is_separate_or_rejected(
    haproxy_and_uvicorn: tuple[HAProxy, list[tuple[str, bytes]]], name: str
) -> None:
    """The replica receives as many requests as the client receives responses, none with bytes of another."""
    front, seen = haproxy_and_uvicorn
    seen.clear()
    answer = front.raw(SMUGGLED[name], timeout_s=1.0)
    answered = answer.count(b"HTTP/1.1 200 ")
    refused = answer.count(b"HTTP/1.1 4") + answer.count(b"HTTP/1.1 501")
    assert len(seen) == answered, (seen, answer)
    assert answered + refused >= 1, answer
    for request, body in seen:
        assert INNER not in body or request.startswith("POST /v1/chat/completions")
        assert request in ("POST /v1/chat/completions", "GET /admin", "GET /v1/models"), request
    if b"GET /admin" in b"".join(request.encode() for request, _ in seen):
        assert answered == 2, "the inner request is pipelined, and its sender sees the response"
