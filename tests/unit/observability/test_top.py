"""`hybridserve top`, over real metrics ports; and what it says when nobody answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from typer.testing import CliRunner

from hybridserve.cli.app import app, main
from hybridserve.cli.top import again, notes
from hybridserve.errors import ServiceError
from hybridserve.observability.collectors.replica import ReplicaCollector
from hybridserve.observability.prometheus_client import Prometheus
from hybridserve.observability.top import Ports


@pytest.fixture
def registry(state: ReplicaCollector) -> CollectorRegistry:
    """A replica's port: our state, and the engine's counters."""
    registry = CollectorRegistry()
    registry.register(state)
    Counter("vllm:generation_tokens", "t", ["model_name"], registry=registry).labels("demo").inc(100)
    Histogram("vllm:time_to_first_token_seconds", "t", ["model_name"], registry=registry).labels("demo").observe(0.5)
    return registry


@pytest.fixture
def url(registry: CollectorRegistry) -> Iterator[str]:
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=[b"<html>hello</html>"])
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """Answers, but not as a Prometheus of ours does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(request.param)

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_rates_are_between_two_readings(url: str, registry: CollectorRegistry) -> None:
    clock = iter((0.0, 2.0))
    ports = Ports([url], 0, clock=lambda: next(clock))
    (first,) = ports.rows()
    assert (first.slots_used, first.slots, first.tokens_per_s, first.ttft_s) == (5, 8, None, None)
    collector: Any = registry._names_to_collectors["vllm:generation_tokens"]
    collector.labels("demo").inc(50)
    histogram: Any = registry._names_to_collectors["vllm:time_to_first_token_seconds"]
    histogram.labels("demo").observe(0.25)
    (second,) = ports.rows()
    assert (second.tokens_per_s, second.ttft_s, second.model) == (25, 0.25, "demo")


def test_a_row_names_what_to_look_at(url: str) -> None:
    (row,) = Ports([url], 0).rows()
    assert notes(row) == ["1 fields off plan", "1 findings FAIL"]


def test_one_look_as_a_table_and_as_json(url: str) -> None:
    run = CliRunner().invoke
    shown = run(app, ["top", "--once", "--url", url])
    assert shown.exit_code == 0, shown.output
    assert "5/8" in shown.stdout
    assert "10 + 11 of 89" in shown.stdout
    (row,) = json.loads(run(app, ["top", "--json", "--url", url]).stdout)["replicas"]
    assert (row["slots_used"], row["slots"]) == (5, 8)


@pytest.mark.parametrize("words", [["--url", "http://127.0.0.1:1"], ["--prometheus", "http://127.0.0.1:1"]])
def test_nobody_there_is_one_clear_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["top", "--once", *words])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "fix:" in told
    assert "Traceback" not in told


def test_something_else_on_that_port_is_no_prometheus(stranger: str) -> None:
    with pytest.raises(ServiceError, match="does not answer like Prometheus"):
        Prometheus(stranger).now("up")


@pytest.mark.parametrize(
    "stranger", [b'{"status": "success", "data": {"resultType": "vector", "result": []}}'], indirect=True
)
def test_a_prometheus_without_our_metrics_is_told_so(stranger: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["top", "--once", "--prometheus", stranger])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "has no hybridserve_state_slots" in told
    assert "see its targets" in told


def test_numbers_that_are_absent_are_shown_as_such(registry: CollectorRegistry, url: str) -> None:
    """An engine of another version, or one that has not spoken yet."""
    registry.unregister(registry._names_to_collectors["vllm:generation_tokens"])
    (row,) = Ports([url], 0).rows()
    assert (row.tokens_per_s, row.waiting, row.slots) == (None, None, 8)
    assert CliRunner().invoke(app, ["top", "--once", "--url", url]).exit_code == 0


def test_a_watch_goes_on_while_the_service_is_away(url: str) -> None:
    before = Ports([url], 0).rows()
    rows, missed = again(Ports(["http://127.0.0.1:1"], 0).rows, before)
    assert rows == before
    assert "no answer, this is the last one: http://127.0.0.1:1 cannot be read" in missed
    assert again(lambda: before, []) == (before, "")
