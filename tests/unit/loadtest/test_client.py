"""The client against a server with known delays. Medians, since other work shares the machine."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import httpx
import pytest

from hybridserve.loadtest.client import StreamingClient, now
from hybridserve.loadtest.prompts import CHAT, COMPLETIONS, PromptRequest
from hybridserve.loadtest.request_record import Outcome, Record

MS = 0.001


def ask(url: str, tokens: int = 20, path: str = COMPLETIONS, timeout: float = 5.0, **mock: Any) -> Record:
    return asks(url, 1, tokens, path, timeout, **mock)[0]


def asks(
    url: str, times: int, tokens: int = 20, path: str = COMPLETIONS, timeout: float = 5.0, **mock: Any
) -> list[Record]:
    client = StreamingClient(url, timeout=timeout)
    body = json.dumps({"max_tokens": tokens, "stream": True, "mock": mock}).encode()
    found = [client.send(PromptRequest(path, body, "test")).record for _ in range(times)]
    client.close()
    return found


MEASURES: dict[str, Callable[[Record], float]] = {
    "ttft": lambda one: one.ttft or 0,
    "itl": lambda one: median(one.itls),
    "longest gap": lambda one: max(one.itls),
    "tpot": lambda one: one.tpot or 0,
    "e2e": lambda one: one.e2e,
}


def errors(url: str, path: str = COMPLETIONS, tokens: int = 20, **mock: Any) -> dict[str, float]:
    """Median error of each measure in milliseconds, over rounds of nine requests until none is above one.

    The truth is what the server wrote, and when: a busy neighbour makes it late, and the client has to say so. It may
    make the client late as well, hence the rounds; a client that measures wrong is wrong in all of them.
    """
    found: dict[str, float] = {}
    for _ in range(8):
        seen, truth = [], []
        for _ in range(9):
            one = ask(url, tokens, path, **mock)
            assert one.outcome is Outcome.OK
            sent = one.sent - (now() - time.perf_counter())
            written = [at - sent for at in httpx.get(f"{url}/mock/sent").json()["sent"]]
            seen.append(one)
            truth.append(replace(one, chunks=tuple(written), end=written[-1]))
        found = {
            name: abs(median(of(a) - of(b) for a, b in zip(seen, truth, strict=True))) / MS
            for name, of in MEASURES.items()
        }
        if max(found.values()) < 1:
            break
    return found


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_each_measure_to_the_millisecond(mock_url: str, path: str) -> None:
    assert all(error < 1 for error in errors(mock_url, path).values())
    one = ask(mock_url, 20, path)
    assert (one.prompt_tokens, one.output_tokens, len(one.chunks)) == (11, 20, 20)


def test_nothing_is_measured_shorter_than_the_server_waited(mock_url: str) -> None:
    """10 ms, then 5 ms each: neighbours make it later, nothing makes it earlier."""
    records = asks(mock_url, 30, 20)
    assert 10 <= min(one.ttft or 0 for one in records) / MS < 15
    assert min(one.e2e for one in records) / MS >= 10 + 19 * 5
    assert median(one.tpot or 0 for one in records) / MS == pytest.approx(5, abs=1)


def test_what_the_client_saw_is_what_the_server_wrote(mock_url: str) -> None:
    """Both clocks are the machine's monotonic one: the client's own error is what lies between."""
    late, stalls, answers = [], [], []
    for _ in range(15):
        one = ask(mock_url, 20, CHAT, stall=[10, 0.1], reasoning=12)
        truth = httpx.get(f"{mock_url}/mock/sent").json()["sent"]
        sent = one.sent - (now() - time.perf_counter())
        late += [sent + seen - written for seen, written in zip(one.chunks, truth, strict=True)]
        stalls.append(max(one.itls) - (truth[10] - truth[9]))
        answers.append((one.first_answer or 0) - one.chunks[0] - (truth[12] - truth[0]))
    assert min(late) > 0, "no token is read before it was written"
    assert median(late) < 1 * MS
    assert abs(median(stalls)) < 1 * MS
    assert abs(median(answers)) < 1 * MS


def test_a_stall_is_one_gap_and_counts_in_the_time_per_token(mock_url: str) -> None:
    assert all(error < 1 for error in errors(mock_url, stall=[10, 0.1]).values())
    one = ask(mock_url, 20, stall=[10, 0.1])
    assert max(one.itls) > 0.05
    assert one.tpot == pytest.approx((one.chunks[-1] - one.chunks[0]) / 19)


def test_events_cut_by_the_network_are_whole(mock_url: str) -> None:
    one = ask(mock_url, 10, split=True)
    assert one.ok
    assert len(one.chunks) == 10


def test_merged_tokens(mock_url: str) -> None:
    one = ask(mock_url, 20, merge=4)
    assert (len(one.chunks), one.output_tokens) == (5, 20)
    assert all(error < 1 for error in errors(mock_url, merge=4).values())


def test_reasoning_tokens_are_counted_apart(mock_url: str) -> None:
    one = ask(mock_url, 20, CHAT, reasoning=12)
    assert (one.reasoning_tokens, one.output_tokens) == (12, 20)
    assert one.first_answer == one.chunks[12]


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
def test_how_a_request_ends(mock_url: str, mock: dict[str, Any], outcome: Outcome, chunks: int) -> None:
    one = ask(mock_url, 20, **mock)
    assert (one.outcome, len(one.chunks)) == (outcome, chunks)
    assert one.ok is False
    if one.status == 429:
        assert one.retry_after == 7


def test_silence_before_and_after_the_first_token(mock_url: str) -> None:
    assert ask(mock_url, timeout=0.2, first=2.0).outcome is Outcome.TIMEOUT_FIRST
    assert ask(mock_url, timeout=0.2, idle=3).outcome is Outcome.TIMEOUT_IDLE


def test_an_answer_of_the_wrong_length(mock_url: str) -> None:
    client = StreamingClient(mock_url)
    body = json.dumps({"stream": True, "mock": {"tokens": 3}}).encode()
    assert client.send(PromptRequest(COMPLETIONS, body, "test", exact=4)).record.outcome is Outcome.LENGTH
    assert client.send(PromptRequest(COMPLETIONS, body, "test", exact=3)).record.ok


def test_reasoning_over_the_budget(mock_url: str) -> None:
    client = StreamingClient(mock_url)
    body = json.dumps({"stream": True, "mock": {"tokens": 9, "reasoning": 6}}).encode()
    assert client.send(PromptRequest(CHAT, body, "test", budget=5)).record.outcome is Outcome.OVERRUN
    assert client.send(PromptRequest(CHAT, body, "test", budget=6)).record.ok


def test_without_usage_chunks_are_counted_and_it_is_said(mock_url: str) -> None:
    one = ask(mock_url, 6, usage=False)
    assert (one.output_tokens, one.usage, one.ok) == (6, False, True)


def test_latency_from_the_intended_start(mock_url: str) -> None:
    client = StreamingClient(mock_url)
    body = json.dumps({"max_tokens": 4}).encode()
    due = now() - 0.25
    one = client.send(PromptRequest(COMPLETIONS, body, "test"), due).record
    assert 0.25 <= one.queued < 0.35
    assert one.ttft == pytest.approx(one.queued + one.chunks[0])
    assert one.e2e == pytest.approx(one.queued + one.end)
    assert one.intended == pytest.approx(due)


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert ask(f"http://127.0.0.1:{port}").outcome is Outcome.CONNECT


def test_an_idle_connection_that_the_server_closed_is_no_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        import threading

        def serve() -> None:
            reply = b'data: {"choices":[{"text":"a","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(reply)
            for _ in range(2):
                taken, _ = server.accept()
                taken.recv(65536)
                taken.sendall(head + reply)
                taken.close()

        worker = threading.Thread(target=serve)
        worker.start()
        client = StreamingClient(f"http://127.0.0.1:{server.getsockname()[1]}")
        outcomes = []
        for _ in range(2):
            outcomes.append(client.send(PromptRequest(COMPLETIONS, b"{}", "test")).record.outcome)
            time.sleep(0.05)
        worker.join(5)
    assert outcomes == [Outcome.OK, Outcome.OK]


def test_a_client_goes_on_after_every_kind_of_failure(mock_url: str) -> None:
    client = StreamingClient(mock_url, timeout=0.3)
    outcomes = []
    for mock in ({"cut": 3}, {}, {"idle": 3}, {}, {"status": 503}, {}, {"error": 2}, {}, {"first": 1.0}, {}):
        body = json.dumps({"max_tokens": 8, "mock": mock}).encode()
        outcomes.append(client.send(PromptRequest(COMPLETIONS, body, "test")).record.outcome)
    assert outcomes[1::2] == [Outcome.OK] * 5
    assert Outcome.OK not in outcomes[::2]
