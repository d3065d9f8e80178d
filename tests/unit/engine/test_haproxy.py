"""On the wire, with a real HAProxy: who is asked again and who is not, who keeps a key, and requests in disguise."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.http_capture import Front, Replica, says

pytestmark = pytest.mark.timeout(120)
BODY = b'{"messages": []}'


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    made: list[Front | Replica] = []

    def factory(*replicas: Replica) -> Front:
        made.extend(replicas)
        made.append(Front(tmp_path, [replica.port for replica in replicas]))
        return made[-1]  # type: ignore[return-value]

    yield factory
    for one in reversed(made):
        one.close()


def dies(connection: socket.socket, _: bytes) -> None:
    """As a process that is killed: a reset, and not one byte."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def closes(connection: socket.socket, _: bytes) -> None:
    """As a process that exits."""


def dies_in_its_stream(connection: socket.socket, _: bytes) -> None:
    connection.sendall(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
    )
    time.sleep(0.3)
    dies(connection, b"")


@pytest.mark.parametrize("death", [dies, closes])
@pytest.mark.parametrize("size", [16, 100_000])
def test_who_got_no_byte_is_answered_by_another_replica(front: Callable[..., Front], death: object, size: int) -> None:
    """leastconn alternates between idle replicas: of two requests one meets the dying one first."""
    bad, good = Replica(death), Replica(says("whole"))  # type: ignore[arg-type]
    haproxy = front(bad, good)
    for _ in range(2):
        answer = haproxy.post(b"x" * size)
        assert answer.endswith(b"whole"), answer[:200]
    assert len(bad.seen) >= 1, "the dying one was never asked"
    assert len(good.seen) == 2, "each request was answered once"


def test_once_only(front: Callable[..., Front]) -> None:
    first, second = Replica(dies), Replica(dies)
    answer = front(first, second).post(BODY)
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b" 503 " in head.split(b"\r\n")[0]
    assert b"retry-after" in head.lower()
    assert json.loads(body)["error"]["code"] == "engine_unavailable"
    assert len(first.seen) + len(second.seen) == 2


def test_never_after_the_first_byte_and_the_cut_shows(front: Callable[..., Front]) -> None:
    first, second = Replica(dies_in_its_stream), Replica(dies_in_its_stream)
    answer = front(first, second).post(BODY)
    assert b"data: 1" in answer
    assert b"0\r\n\r\n" not in answer, "a chunked body that was cut must not look finished"
    assert len(first.seen) + len(second.seen) == 1


def test_nobody_there_is_said_at_once(front: Callable[..., Front]) -> None:
    gone = Replica(says("never"))
    haproxy = front(gone)
    gone.close()
    began = time.monotonic()
    answer = haproxy.post(BODY)
    assert b"engine_unavailable" in answer
    assert time.monotonic() - began < 3


def test_a_key_stays_with_its_replica(front: Callable[..., Front]) -> None:
    replicas = [Replica(says(name)) for name in ("a", "b", "c")]
    haproxy = front(*replicas)
    for ident in ("one", "two", "three"):
        answers = {haproxy.post(BODY, f"Idempotency-Key: {ident}")[-1:] for _ in range(6)}
        assert len(answers) == 1, answers
    assert len({haproxy.post(BODY)[-1:] for _ in range(6)}) == 3


# What a front and a replica might read as two requests, or as another one.
HIDDEN = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
DISGUISES = {
    "length and chunks": START + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": START + b"Transfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": START + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a list of lengths": START + b"Content-Length: 0, %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a signed length": START + b"Content-Length: +%d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a length in hex": START + b"Content-Length: 0x10\r\n\r\n" + HIDDEN,
    "an empty length": START + b"Content-Length:\r\n\r\n" + HIDDEN,
    "chunked in disguise": START + b"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "chunked with a tab": START + b"Transfer-Encoding:\tchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a space before the colon": START + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a folded header": START + b"X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a bare line feed": START + b"X-A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a zero byte": START + b"X-A: b\x00c\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "a line in the path": b"GET /v1/models\rX: y HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
    "a bad chunk size": START + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n" + HIDDEN,
    "a huge chunk size": START + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n" + HIDDEN,
}


@pytest.fixture(scope="module")
def before_uvicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Front, list[tuple[str, bytes]]]]:
    """HAProxy before the server that vLLM runs in, with an app that notes what it was asked."""
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
    front = Front(tmp_path_factory.mktemp("front"), [listener.getsockname()[1]])
    yield front, seen
    front.close()
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("name", DISGUISES)
def test_a_hidden_request_is_a_request_of_its_own_or_nothing(
    before_uvicorn: tuple[Front, list[tuple[str, bytes]]], name: str
) -> None:
    """The two must agree: as many requests reach the replica as the client gets answers, none with another's bytes."""
    front, seen = before_uvicorn
    seen.clear()
    answer = front.raw(DISGUISES[name], timeout_s=1.0)
    answered = answer.count(b"HTTP/1.1 200 ")
    refused = answer.count(b"HTTP/1.1 4") + answer.count(b"HTTP/1.1 501")
    assert len(seen) == answered, (seen, answer)
    assert answered + refused >= 1, answer
    for asked, body in seen:
        assert HIDDEN not in body or asked.startswith("POST /v1/chat/completions")
        assert asked in ("POST /v1/chat/completions", "GET /admin", "GET /v1/models"), asked
    if b"GET /admin" in b"".join(asked.encode() for asked, _ in seen):
        assert answered == 2, "it came in as a request that its sender may see the answer of"
