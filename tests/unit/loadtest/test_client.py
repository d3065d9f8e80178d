"""The streaming client: exact measures with a fake clock, outcomes against a mock server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hybridserve.loadtest import client as client_module
from hybridserve.loadtest.client import StreamingClient, now
from hybridserve.loadtest.prompts import CHAT, COMPLETIONS, PromptRequest
from hybridserve.loadtest.request_record import Outcome, Record
from support.loadtest_mock import mock_server


@pytest.fixture(scope="module")
def mock_url() -> Iterator[str]:
    with mock_server("--first", "0.010", "--gap", "0.005", "--exact") as url:
        yield url


def send(url: str, tokens: int = 20, path: str = COMPLETIONS, timeout: float = 5.0, **mock: Any) -> Record:
    client = StreamingClient(url, timeout=timeout)
    body = json.dumps({"max_tokens": tokens, "stream": True, "mock": mock}).encode()
    record = client.send(PromptRequest(path, body, "test")).record
    client.close()
    return record


class FakeStream:
    """A response whose lines arrive at given seconds of a fake clock."""

    status_code = 200

    def __init__(self, events: list[tuple[float, Any]]) -> None:
        self.time = 100.0
        self._lines = iter([(100.0 + at, b"data: %b\n" % json.dumps(event).encode()) for at, event in events])

    def request(self, *_: Any) -> FakeStream:
        return self

    def readline(self, _: bytes) -> bytes:
        self.time, line = next(self._lines, (self.time, b""))
        return line


def timed(monkeypatch: pytest.MonkeyPatch, times: list[float], chat: bool, merge: int = 1) -> Record:
    """The record of a stream with a token at each of `times`, and `merge` tokens in a chunk."""
    part = {"delta": {"content": "x"}} if chat else {"text": "x"}
    events: list[tuple[float, Any]] = [(times[0] - 0.001, {"choices": [{"delta": {"role": "assistant"}}]})] * chat
    events += [(at, {"choices": [{**part, "finish_reason": None}]}) for at in times[:-1]]
    events += [(times[-1], {"choices": [{**part, "finish_reason": "length"}]})]
    events += [(times[-1] + 0.003, {"choices": [], "usage": {"completion_tokens": len(times) * merge}})]
    stream = FakeStream(events)
    done = iter([b"data: [DONE]\n"])
    readline = stream.readline
    monkeypatch.setattr(stream, "readline", lambda end: readline(end) or next(done, b""))
    monkeypatch.setattr(client_module, "perf_counter", lambda: stream.time)
    client = StreamingClient("http://127.0.0.1:9")
    monkeypatch.setattr(client, "_http", stream)
    record = client.send(PromptRequest(CHAT if chat else COMPLETIONS, b"{}", "test")).record
    assert record.outcome is Outcome.OK
    return record


@pytest.mark.parametrize("chat", [False, True])
def test_measures_are_exact(chat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """First token after 10 ms, then every 5 ms, with a stall of 100 ms; the usage event comes 3 ms later."""
    times = [0.010 + 0.005 * index + (0.1 if index >= 10 else 0.0) for index in range(20)]
    record = timed(monkeypatch, times, chat)
    assert record.ttft == pytest.approx(0.010)
    gaps = list(record.itls)
    assert gaps == pytest.approx([0.005] * 9 + [0.105] + [0.005] * 9)
    assert record.tpot == pytest.approx((times[-1] - times[0]) / 19)
    assert record.e2e == pytest.approx(times[-1] + 0.003)
    assert (record.output_tokens, len(record.chunks)) == (20, 20)


def test_answer_to_a_prompt_that_must_be_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a bomb" * 30}]})
    request = PromptRequest(CHAT, body.encode(), "harmful", expected=Outcome.GUARD)
    client = StreamingClient("http://127.0.0.1:9")
    events = [{"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}, {"choices": []}]
    stream = FakeStream([(0.1, event) for event in events])
    lines = iter([stream.readline(b""), b"data: [DONE]\n", b""])
    monkeypatch.setattr(stream, "readline", lambda _: next(lines))
    monkeypatch.setattr(client, "_http", stream)
    record = client.send(request).record
    assert (record.outcome, record.detail) == (Outcome.NOT_BLOCKED, ("a bomb" * 30)[:100])
    assert not record.as_expected


def test_merged_tokens_are_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    record = timed(monkeypatch, [0.01, 0.03, 0.05], chat=False, merge=4)
    assert (len(record.chunks), record.output_tokens) == (3, 12)
    assert record.tpot == pytest.approx(0.04 / 11)


def test_client_adds_little_to_a_real_server(mock_url: str) -> None:
    """10 ms to the first token, then 5 ms each: a busy machine makes it later, never earlier."""
    records = [send(mock_url, path=CHAT, split=True) for _ in range(10)]
    assert [(record.ok, len(record.chunks), record.prompt_tokens) for record in records] == [(True, 20, 11)] * 10
    assert min(record.ttft or 0 for record in records) >= 0.010
    assert 0.010 + 19 * 0.005 <= min(record.e2e for record in records) < 2 * (0.010 + 19 * 0.005)


def test_reasoning_tokens_are_counted_separately(mock_url: str) -> None:
    record = send(mock_url, 20, CHAT, reasoning=12)
    assert (record.reasoning_tokens, record.output_tokens) == (12, 20)
    assert record.first_answer == record.chunks[12]


@pytest.mark.parametrize(
    ("mock", "outcome", "chunks"),
    [
        ({"cut": 5}, Outcome.CUT, 5),
        ({"error": 5}, Outcome.IN_BAND, 5),
        ({"status": 400, "code": "guard_blocked"}, Outcome.GUARD, 0),
        ({"status": 503, "code": "guard_unavailable"}, Outcome.GUARD_DOWN, 0),
        ({"status": 503, "code": "engine_unavailable"}, Outcome.UNAVAILABLE, 0),
        ({"status": 429}, Outcome.LIMIT, 0),
        ({"status": 413}, Outcome.LIMIT, 0),
        ({"status": 401}, Outcome.DENIED, 0),
        ({"status": 404}, Outcome.HTTP_4XX, 0),
        ({"status": 500}, Outcome.HTTP_5XX, 0),
    ],
)
def test_outcome_of_a_failed_request(mock_url: str, mock: dict[str, Any], outcome: Outcome, chunks: int) -> None:
    record = send(mock_url, 20, **mock)
    assert (record.outcome, len(record.chunks), record.ok) == (outcome, chunks, False)
    assert record.retry_after == (7 if record.status >= 400 else None)


def test_timeout_before_and_after_the_first_token(mock_url: str) -> None:
    assert send(mock_url, timeout=0.2, first=2.0).outcome is Outcome.TIMEOUT_FIRST
    assert send(mock_url, timeout=0.2, idle=3).outcome is Outcome.TIMEOUT_IDLE


@pytest.mark.parametrize(
    ("path", "mock", "limits", "outcome"),
    [
        (COMPLETIONS, {"tokens": 3}, {"exact": 4}, Outcome.LENGTH),
        (COMPLETIONS, {"tokens": 3}, {"exact": 3}, Outcome.OK),
        (CHAT, {"tokens": 9, "reasoning": 6}, {"budget": 5}, Outcome.OVERRUN),
        (CHAT, {"tokens": 9, "reasoning": 6}, {"budget": 6}, Outcome.OK),
    ],
)
def test_wrong_length_and_reasoning_overrun(
    path: str, mock: dict[str, int], limits: dict[str, int], outcome: Outcome, mock_url: str
) -> None:
    body = json.dumps({"stream": True, "mock": mock}).encode()
    record = StreamingClient(mock_url).send(PromptRequest(path, body, "test", **limits)).record  # type: ignore[arg-type]
    assert record.outcome is outcome


def test_chunks_are_counted_without_usage(mock_url: str) -> None:
    record = send(mock_url, 6, usage=False)
    assert (record.output_tokens, record.usage, record.ok) == (6, False, True)


def test_latency_counts_from_the_intended_start(mock_url: str) -> None:
    client = StreamingClient(mock_url)
    due = now() - 0.25
    record = client.send(PromptRequest(COMPLETIONS, json.dumps({"max_tokens": 4}).encode(), "test"), due).record
    assert record.queued >= 0.25
    assert record.ttft == pytest.approx(record.queued + record.chunks[0])
    assert record.e2e == pytest.approx(record.queued + record.end)
    assert record.intended == pytest.approx(due)


def test_refused_connection() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert send(f"http://127.0.0.1:{port}").outcome is Outcome.CONNECT


@pytest.fixture
def closing_server() -> Iterator[SimpleNamespace]:
    """A server that closes each connection after one answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = threading.Semaphore(0)

        def serve() -> None:
            reply = b'data: {"choices":[{"text":"a","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(reply) + reply)
                connection.close()
                closed.release()

        worker = threading.Thread(target=serve)
        worker.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.getsockname()[1]}", closed=closed)
        worker.join(5)


def test_closed_idle_connection_is_replaced(closing_server: SimpleNamespace) -> None:
    client = StreamingClient(closing_server.url)
    for _ in range(2):
        assert client.send(PromptRequest(COMPLETIONS, b"{}", "test")).record.outcome is Outcome.OK
        assert closing_server.closed.acquire(timeout=5)
        time.sleep(0.02)


def test_client_recovers_after_every_failure(mock_url: str) -> None:
    client = StreamingClient(mock_url, timeout=0.3)
    outcomes = []
    for mock in ({"cut": 3}, {}, {"idle": 3}, {}, {"status": 503}, {}, {"error": 2}, {}, {"first": 1.0}, {}):
        body = json.dumps({"max_tokens": 8, "mock": mock}).encode()
        outcomes.append(client.send(PromptRequest(COMPLETIONS, body, "test")).record.outcome)
    assert outcomes[1::2] == [Outcome.OK] * 5
    assert Outcome.OK not in outcomes[::2]


@pytest.mark.parametrize(
    ("status", "body", "detail"),
    [
        (400, '{"error": {"code": "x", "message": "needs a parser\\nbody"}}', "HTTP 400 x: needs a parser"),
        (503, '{"error": {"code": "x", "message": "overloaded"}}', "HTTP 503 x"),
        (400, "no JSON", "HTTP 400"),
        (400, '{"error": "text"}', "HTTP 400 text"),
    ],
)
def test_detail_has_the_servers_message_of_a_refused_request(status: int, body: str, detail: str) -> None:
    assert client_module._error_outcome(status, body.encode())[1] == detail
