"""Scaling without Ray: real HTTP from simulated pods to the controller, and from the controller to a scripted HPA."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from hybridserve.autoscaling.replica_metrics import FIELDS, ReplicaMetrics
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.errors import ConfigError, ServiceError
from hybridserve.observability.http_server import serve_wsgi, text_app
from hybridserve.observability.metrics import EngineMetrics, GatewayMetrics
from hybridserve.runtime.pod_autoscaler import POLL_S, STALE_S, PodAutoscaler, pod_addresses, read_pod
from hybridserve.simulator.replica import Replica, SimulatedRequest
from hybridserve.simulator.service_times import load_service_times
from support.hpa import SYNC_S, ScriptedHPA, hpa_spec

START_UP_S = 30.0
TIMES = load_service_times("nano-9b-a10g")
SPEC = ScalingSpec(min_replicas=1, max_replicas=3, start_up_s=START_UP_S, capacity=TIMES.capacity())


class MetricsPort:
    """A pod's metrics port with the metrics that a replica exports."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._engine, self.gateway = EngineMetrics(registry), GatewayMetrics(registry)
        self.address = f"127.0.0.1:{serve_wsgi('127.0.0.1', 0, text_app(registry))}"

    def set(self, metrics: ReplicaMetrics) -> None:
        for field, value in metrics.numbers().items():
            self._engine.scaling_input.labels(field).set(value)


class Cluster:
    """Simulated pods behind a balancer that chooses the least busy one, as the ReplicaSet and kubelet treat them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: list[tuple[Replica, MetricsPort]] = []
        self.starting: list[Replica] = []
        self.draining: list[tuple[Replica, MetricsPort]] = []
        self.scale(1)
        self.run_until(START_UP_S)

    def find(self) -> list[str]:
        # The metrics port of a pod that starts does not answer.
        starting = [f"127.0.0.1:{9 + number}" for number in range(len(self.starting))]
        return [port.address for _, port in self.ready + self.draining] + starting

    def scale(self, count: int) -> None:
        for _ in range(count - len(self.ready) - len(self.starting)):
            self.starting.append(Replica(TIMES, "pod", self.now + START_UP_S))
        while len(self.ready) + len(self.starting) > count:
            if self.starting:
                self.starting.pop()
            else:
                self.draining.append(self.ready.pop())
                self.draining[-1][1].gateway.draining.set(1)

    def send(self, request: SimulatedRequest) -> None:
        for replica, _ in self.ready:
            replica.advance(request.arrived)
        min((replica for replica, _ in self.ready), key=lambda replica: replica.ongoing).push(request, request.arrived)

    def run_until(self, now: float) -> None:
        self.now = now
        self.ready += [(replica, MetricsPort()) for replica in self.starting if replica.ready_at <= now]
        self.starting = [replica for replica in self.starting if replica.ready_at > now]
        for replica, port in self.ready + self.draining:
            replica.advance(now)
            port.set(replica.metrics())
        self.draining = [pod for pod in self.draining if pod[0].ongoing]


def desired(url: str) -> float | None:
    """What KEDA's metrics-api scaler reads; None where it reports an error, and the HPA changes nothing."""
    answer = httpx.get(f"{url}/desired-replicas", trust_env=False)
    return float(answer.json()["desired_replicas"]) if answer.status_code == 200 else None


def test_load_scales_one_to_three_pods_and_back() -> None:
    cluster, hpa, chance = Cluster(), ScriptedHPA(hpa_spec(1, 3)), random.Random(7)
    scaler = PodAutoscaler(SPEC, cluster.find, 900.0, clock=lambda: cluster.now)
    url = f"http://127.0.0.1:{scaler.listen('127.0.0.1', 0)}"
    requests, counts = [], [1]
    next_sync, arrival = cluster.now, cluster.now
    began = cluster.now
    while cluster.now < began + 420.0 or any(replica.ongoing for replica, _ in cluster.ready):
        until = cluster.now + POLL_S
        while arrival < until:
            rate = 0.0 if arrival > began + 300 else 6.0 if began + 60 < arrival <= began + 220 else 0.5
            if rate and arrival >= cluster.now:
                requests.append(SimulatedRequest(arrival, 500, 200))
                cluster.send(requests[-1])
            arrival += chance.expovariate(rate) if rate else POLL_S
        cluster.run_until(until)
        scaler.step()
        if until >= next_sync:
            next_sync = until + SYNC_S
            counts.append(hpa.reconcile(until, counts[-1], desired(url)))
            cluster.scale(counts[-1])
    assert [count for before, count in zip([0, *counts], counts, strict=False) if count != before] in (
        [1, 3, 1],
        [1, 3, 2, 1],
        [1, 2, 3, 2, 1],
    )
    assert len(requests) > 900
    assert all(request.last == request.last for request in requests)  # none is unfinished


@pytest.fixture
def one_pod() -> tuple[MetricsPort, PodAutoscaler, str, list[float], list[Any]]:
    """A pod, its controller with address, the controller's clock, and what `find` returns (an exception is raised)."""
    port, now = MetricsPort(), [0.0]
    port.set(ReplicaMetrics(""))
    found: list[Any] = [port.address]

    def find() -> list[str]:
        if isinstance(found[0], Exception):
            raise found[0]
        return found

    scaler = PodAutoscaler(SPEC, find, 900.0, clock=lambda: now[0])
    return port, scaler, f"http://127.0.0.1:{scaler.listen('127.0.0.1', 0)}", now, found


def test_nothing_is_served_before_the_first_decision(one_pod: Any) -> None:
    _, scaler, url, _, _ = one_pod
    assert httpx.get(f"{url}/desired-replicas").status_code == 503
    assert "autoscaler_target_replicas " not in httpx.get(f"{url}/metrics").text
    scaler.step()
    assert desired(url) == 1.0
    assert "autoscaler_target_replicas 1.0" in httpx.get(f"{url}/metrics").text
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.get(f"{url}/other").status_code == 404


@pytest.mark.parametrize("error", [ServiceError("pods", "do not resolve", "-"), RuntimeError("defect")])
def test_last_number_stays_after_an_error(one_pod: Any, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    port, scaler, url, now, found = one_pod
    port.set(ReplicaMetrics("", running=16, waiting=100, blocks_used=128))
    scaler.step()
    assert desired(url) == 3.0
    found[0] = error
    for _ in range(3):
        now[0] += POLL_S
        scaler.step()
    assert desired(url) == 3.0
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    assert next(family for family in families if family.name == "hybridserve_autoscaler_errors").samples[0].value == 3
    assert [record.message for record in caplog.records].count("autoscaler_error") == 1


def test_number_is_not_served_when_the_loop_hangs(one_pod: Any) -> None:
    _, scaler, url, now, _ = one_pod
    scaler.step()
    now[0] += STALE_S + 1
    assert desired(url) is None
    assert httpx.get(f"{url}/health").status_code == 503


@pytest.mark.parametrize(
    ("change", "where"), [({"policy": "queue_length"}, "scaling.policy"), ({"min_replicas": 0}, "scaling.min_replicas")]
)
def test_settings_that_need_ray_are_refused(change: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as refused:
        PodAutoscaler(SPEC.model_copy(update=change), list, 900.0)
    assert refused.value.where == where


def test_report_has_every_field_of_the_replica() -> None:
    port = MetricsPort()
    metrics = ReplicaMetrics("", **{name: index + 1 for index, name in enumerate(FIELDS)})
    port.set(metrics)
    port.gateway.draining.set(1)
    report = read_pod(port.address)
    assert report is not None
    assert (report.metrics, report.draining) == (metrics, True)
    assert read_pod("127.0.0.1:9") is None


def test_controller_imports_only_what_the_control_image_has() -> None:
    code = "import sys, hybridserve.cli.autoscale, hybridserve.runtime.pod_autoscaler, hybridserve.deployment.resolve\n"
    code += "print(' '.join({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    engine = {"torch", "vllm", "ray", "transformers", "numpy", "fastapi", "starlette", "uvicorn", "psutil", "aiohttp"}
    assert not engine & set(loaded)


def serve_text(text: str) -> str:
    def app(_: Any, start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [text.encode()]

    return f"127.0.0.1:{serve_wsgi('127.0.0.1', 0, app)}"


@pytest.mark.parametrize("text", ["hybridserve_scaling_input{field=", "hybridserve_scaling_input{field='x'} many"])
def test_malformed_metrics_count_as_no_report(text: str) -> None:
    assert read_pod(serve_text(text)) is None


def test_report_of_another_exporter_is_incomplete() -> None:
    report = read_pod(serve_text('hybridserve_scaling_input{field="running"} 1\nother 2\n'))
    assert report is not None
    assert report.metrics is None


def test_pods_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(0, 0, 0, "", (host, 9464)) for host in ("10.0.0.2", "10.0.0.1", "fd00::1", "10.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    assert pod_addresses("pods", 9464) == ["10.0.0.1:9464", "10.0.0.2:9464", "[fd00::1]:9464"]
    monkeypatch.undo()
    with pytest.raises(ServiceError):
        pod_addresses("pods.invalid", 9464)
