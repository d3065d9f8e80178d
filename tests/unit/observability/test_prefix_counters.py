"""Counters of reused prompt tokens: of a replica, in the load test's report, and the recorded trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import httpx
import pytest
from prometheus_client import CollectorRegistry, start_http_server

from hybridserve.errors import ServiceError
from hybridserve.loadtest.prefix_reuse import read_change, read_counters, write_change
from hybridserve.loadtest.tables import reuse_cells
from hybridserve.observability.collectors.prefix_reuse import MAX_WAITING, PrefixReuseCollector
from hybridserve.observability.metrics import EngineMetrics
from hybridserve.observability.replica_ports import one_line
from hybridserve.planning.cache.reuse import CacheGrid
from hybridserve.planning.cache.reuse_model import replay
from hybridserve.planning.cache.reuse_trace import read_trace

GRID = CacheGrid(384, 32, 384, 2312, 1, 2, 1364)


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[tuple[PrefixReuseCollector, str]]:
    """A collector, and the address of its metrics port."""
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    with (tmp_path / "trace.jsonl").open("ab", buffering=0) as trace:
        yield PrefixReuseCollector(metrics, GRID, lambda: 1000, None, trace), f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_report_has_the_tokens_that_the_replicas_counted(
    replica: tuple[PrefixReuseCollector, str], tmp_path: Path
) -> None:
    collector, url = replica
    prompt = random.Random(1).choices(range(900), k=1076)
    collector.record(prompt, [1, 2], 0)
    before = read_counters([url])
    collector.record(prompt, [1, 2], 1056)
    collector.record(prompt + prompt, [1, 2], 0)
    write_change(tmp_path, before, read_counters([url]))
    change = read_change(tmp_path)
    assert change is not None
    assert list(reuse_cells(change).values()) == ["2,144, 1,056 (49.3%)", "off_grid 32, state_missing 1,056"]
    assert change.pop("hit") == 1056
    assert change.pop("reusable") == 1072 + 1072
    assert {cause: count for cause, count in change.items() if count} == {"off_grid": 16 + 16, "state_missing": 1056}


def test_requests_of_different_keys_share_nothing(replica: tuple[PrefixReuseCollector, str]) -> None:
    for scope in ("one", "two", "one"):
        replica[0].record([5] * 800, [1], 0, scope)
    assert read_counters([replica[1]])["reusable"] == 784


def test_recorded_requests_can_be_replayed(replica: tuple[PrefixReuseCollector, str], tmp_path: Path) -> None:
    prompt = random.Random(1).choices(range(900), k=1076)
    for hit in (0, 1056):
        replica[0].record(prompt, [1, 2], hit)
    trace = read_trace((tmp_path / "trace.jsonl").read_text().splitlines(), "trace")
    assert [request.hit for request in trace] == [0, 1056]
    assert replay(trace, GRID).hits == (0, 1056)


def test_requests_do_not_pile_up_while_the_directory_does_not_answer() -> None:
    answered, asked = Event(), Event()

    def elsewhere(*_: object) -> int:
        asked.set()
        return int(answered.wait(30))

    metrics = EngineMetrics(CollectorRegistry())
    collector = PrefixReuseCollector(metrics, GRID, lambda: 1000, elsewhere)
    collector.finished([1] * 100, [1], 32, "")
    assert asked.wait(30)
    for _ in range(MAX_WAITING + 50):
        collector.finished([1] * 100, [1], 32, "")
    answered.set()
    collector._worker.shutdown(wait=True)
    assert metrics.prefix_hit_tokens._value.get() == 32 * MAX_WAITING


def test_replica_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(ServiceError, match="--replica-metrics"):
        read_counters(["http://127.0.0.1:1"])


def test_reason_is_one_line() -> None:
    request = httpx.Request("GET", "http://127.0.0.1:1/metrics")
    with pytest.raises(httpx.HTTPStatusError) as refused:
        httpx.Response(404, request=request).raise_for_status()
    assert "404" in one_line(refused.value)
    assert "\n" not in one_line(refused.value)
    assert one_line(httpx.ReadTimeout("")) == "ReadTimeout"
