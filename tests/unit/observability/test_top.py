"""`hybridserve top`, with real metrics ports, and its errors."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from rich.console import Console
from typer.testing import CliRunner

from hybridserve.cli.app import app, main
from hybridserve.cli.top import notes, read_or_keep, reused, table
from hybridserve.errors import ServiceError
from hybridserve.loadtest.prefix_reuse import read_counters
from hybridserve.observability.collectors.replica import ReplicaCollector
from hybridserve.observability.metrics import AutoscalerMetrics
from hybridserve.observability.top import MetricsPorts, ReplicaRow
from support.http_answers import http_answers


@pytest.fixture
def registry(state: ReplicaCollector) -> CollectorRegistry:
    """Metrics of a replica: hybridserve's, and some of the engine."""
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


@pytest.fixture
def other_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """An HTTP server that is not a Prometheus with our metrics."""

    with http_answers(lambda _: request.param) as url:
        yield url


def test_rates_are_between_two_calls(url: str, registry: CollectorRegistry, state: ReplicaCollector) -> None:
    clock = iter((0.0, 2.0))
    ports = MetricsPorts([url], 0, clock=lambda: next(clock))
    (first,) = ports.rows()
    assert (first.slots_used, first.slots, first.tokens_per_s, first.ttft_s) == (5, 8, None, None)
    collector: Any = registry._names_to_collectors["vllm:generation_tokens"]
    collector.labels("demo").inc(50)
    histogram: Any = registry._names_to_collectors["vllm:time_to_first_token_seconds"]
    histogram.labels("demo").observe(0.25)
    state.metrics.prefix_reusable_tokens.inc(400)
    state.metrics.prefix_hit_tokens.inc(300)
    (second,) = ports.rows()
    assert (second.tokens_per_s, second.ttft_s, second.model) == (25, 0.25, "demo")
    assert (second.reused_per_s, second.reusable_per_s) == (150, 200)


def test_notes_list_problems_of_a_replica(url: str) -> None:
    (row,) = MetricsPorts([url], 0).rows()
    assert notes(row) == ["1 fields off plan", "1 error findings FAIL"]
    assert reused(row) == "-"
    assert reused(replace(row, reused_per_s=150, reusable_per_s=200)) == "75%"


def test_once_prints_a_table_or_json(url: str) -> None:
    run = CliRunner().invoke
    shown = run(app, ["top", "--once", "--url", url])
    assert shown.exit_code == 0, shown.output
    assert "5/8" in shown.stdout
    assert "10 + 11 of 89" in shown.stdout
    (row,) = json.loads(run(app, ["top", "--json", "--url", url]).stdout)["replicas"]
    assert (row["slots_used"], row["slots"]) == (5, 8)


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["top", "--once", *args])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "fix:" in text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("option", ["--url", "--prometheus"])
def test_unreachable_address_is_one_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    error_of(capsys, option, "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("other_server", "message"),
    [
        (b"<html>hello</html>", "is not the HTTP API of Prometheus"),
        (b'{"status": "success", "data": {"resultType": "vector", "result": []}}', "has no hybridserve_state_slots"),
    ],
    indirect=["other_server"],
)
def test_server_without_our_metrics_is_one_error(
    other_server: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(capsys, "--prometheus", other_server)


def test_missing_metrics_are_shown_as_unknown(registry: CollectorRegistry, url: str) -> None:
    registry.unregister(registry._names_to_collectors["vllm:generation_tokens"])
    (row,) = MetricsPorts([url], 0).rows()
    assert (row.tokens_per_s, row.waiting, row.slots) == (None, None, 8)
    assert CliRunner().invoke(app, ["top", "--once", "--url", url]).exit_code == 0


@pytest.fixture
def controller() -> Iterator[str]:
    """The metrics port of Ray's controller, where the scaling policy runs."""
    registry = CollectorRegistry()
    AutoscalerMetrics(registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_port_of_something_else_is_an_error_that_names_the_replicas(
    controller: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = url.rpartition(":")[2]
    text = error_of(capsys, "--url", controller, "--port", port)
    assert f"{controller} has the metrics of the autoscaler" in text
    assert f"use {url}" in text
    with pytest.raises(ServiceError, match=r"--replica-metrics: .* has the metrics of the autoscaler"):
        read_counters([url, controller])


@pytest.mark.parametrize(
    ("other_server", "content"),
    [
        (b"vllm:num_requests_running 1\n", "has vLLM's metrics"),
        (b"b 1\na 2\n", "2 metrics, such as a"),
        (b"", "no metrics"),
    ],
    indirect=["other_server"],
)
def test_the_error_says_what_a_port_has(other_server: str, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = error_of(capsys, "--url", other_server, "--port", "1")
    assert content in text
    assert "`hybridserve top` lists those of this machine" in text


def test_watch_continues_while_the_service_is_down(url: str) -> None:
    before = MetricsPorts([url], 0).rows()
    rows, problem = read_or_keep(MetricsPorts(["http://127.0.0.1:1"], 0).rows, before)
    assert rows == before
    assert "no response, showing the last one: http://127.0.0.1:1 cannot be read" in problem
    assert read_or_keep(lambda: before, []) == (before, "")


@pytest.mark.parametrize(("number", "words"), [(1, "  1 replica  "), (2, "  2 replicas  ")])
def test_the_title_counts_replicas(number: int, words: str) -> None:
    row = ReplicaRow("a", "demo", *([None] * 15))
    assert words in str(table([row] * number, 132).title)


BUSY = ReplicaRow(
    "127.0.0.1:9465", "nemotron-nano-9b-v2", 184, 184, 368, 1200, 2448, 184, 12, 901, 3.0, 150, 200, 0, 4, 0, 0.759
)


@pytest.mark.parametrize("replica", ["127.0.0.1:9465", "assistant-hybridserve-6f7c9d8b54-x2x9q"])
@pytest.mark.parametrize("width", [60, 80, 100, 132, 180])
def test_no_name_is_cut_off(width: int, replica: str) -> None:
    rows = [replace(BUSY, replica=replica), replace(BUSY, replica=f"{replica[:-1]}8")]
    console = Console(width=width, file=io.StringIO())
    console.print(table(rows, width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\u2026" not in text
    assert all(row.replica in text for row in rows)
    assert text.count("4 error") == 2
    left_out = text.partition(f"left out at {width} columns: ")[2]
    assert ("blocks: state + attention" in left_out) == (width < 180)
    assert ("184/184" in text) != ("state slots" in left_out)
    assert max(map(len, text.splitlines())) <= width


def test_a_plain_terminal_has_what_a_watcher_needs() -> None:
    header = table([BUSY], 80).columns
    assert [str(column.header) for column in header] == [
        "replica", "state slots", "run", "wait", "TTFT", "tokens/s", "notes"
    ]  # fmt: skip
