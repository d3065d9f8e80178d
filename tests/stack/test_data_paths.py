"""The three data paths from a client to the engine: the gateway cannot be bypassed, and a drain is complete."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from hybridserve.gateway.auth.api_keys import key_line, new_key
from hybridserve.observability.metrics import all_metrics
from hybridserve.runtime.pod_autoscaler import pod_report
from support.stack_service import Service, living, start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

CHAT = "/v1/chat/completions"
LONG = {"max_tokens": 3000, "min_tokens": 3000, "ignore_eos": True}
# Seconds everywhere, and less than the drain timeout on a slow machine, which would cut it off.
DRAINED = {"max_tokens": 1000, "min_tokens": 1000, "ignore_eos": True}
# Telemetry that cannot work: a foreign address, a folder below a file, a missing collector. Two of the three paths are
# tested with it, up to the drain and the exit code: it must not affect the service.
BROKEN = ("metrics_host=192.0.2.1", "targets_dir=/dev/null/targets", "otlp_endpoint=http://127.0.0.1:1")


class PathService:
    """A service on one data path, with a user's key and an operator's."""

    def __init__(self, path: str, folder: Path) -> None:
        self.path = path
        self.user, self.operator = new_key(), new_key()
        keys = folder / "keys.txt"
        everything = ("inference", "metrics", "admin")
        keys.write_text(f"{key_line('user', self.user)}\n{key_line('operator', self.operator, everything)}\n")
        self.log = folder / "stderr.log"
        flags = [f"access.keys_file={keys}"]
        if path != "haproxy":
            flags += [f"telemetry.{setting}" for setting in BROKEN]
        self.service: Service = start(
            ["--data-path", path, *(word for flag in flags for word in ("--set", flag))], log=self.log
        )
        # Created once: a TLS context takes seconds while the engine is busy.
        self.client = httpx.Client(
            base_url=self.service.url, headers={"authorization": f"Bearer {self.user}"}, timeout=120
        )

    def body(self, **fields: Any) -> dict[str, Any]:
        return {"model": "demo", "temperature": 0, "messages": [{"role": "user", "content": "What is this?"}], **fields}

    def metric(self, name: str) -> float:
        text = self.client.get("/metrics", headers={"authorization": f"Bearer {self.operator}"}).text
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((name + "{", name))]
        assert values, f"{name} is not exported"
        return sum(values)

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 30
        while self.metric("vllm:num_requests_running{"):
            assert time.monotonic() < deadline, "the engine still has requests"
            time.sleep(0.2)


@pytest.fixture(scope="module", params=["haproxy", "proxy", "single"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PathService]:
    running = PathService(request.param, tmp_path_factory.mktemp("path"))
    yield running
    running.client.close()
    running.service.stop()


def test_stream_equals_response_with_one_request_id(running: PathService) -> None:
    ident = {"x-request-id": "a-name-of-mine"}
    answer = running.client.post(CHAT, json=running.body(max_tokens=40), headers=ident)
    assert answer.status_code == 200, answer.text
    assert answer.headers.get_list("x-request-id") == ["a-name-of-mine"]
    message = answer.json()["choices"][0]["message"]
    pieces: dict[str, str] = {"content": "", "reasoning": ""}
    with running.client.stream("POST", CHAT, json=running.body(max_tokens=40, stream=True)) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            for name in pieces:
                pieces[name] += choice["delta"].get(name) or ""
    assert pieces == {"content": message["content"] or "", "reasoning": message["reasoning"] or ""}
    plan = running.client.get("/plan").json()
    assert plan["holds"] is True
    assert plan["line"] == running.service.cache


def test_all_metrics_are_exported(running: PathService) -> None:
    """On the public port; test_telemetry_live covers the metrics ports."""
    text = running.client.get("/metrics", headers={"authorization": f"Bearer {running.operator}"}).text
    for spec in all_metrics():
        if spec.source != "autoscaler":  # Ray's controller is another process with its own port
            assert f"# TYPE {spec.name} {spec.kind}" in text, spec.name
    assert running.metric("vllm:num_requests_running{") >= 0
    report = pod_report(text)  # what scales pods without Ray
    assert report.metrics is not None
    assert not report.draining


def test_telemetry_errors_are_logged_and_harmless(running: PathService) -> None:
    log = running.log.read_text()
    broken = running.path != "haproxy"
    assert ("event=metrics_port_unavailable host=192.0.2.1" in log) == broken
    assert ("event=metrics_port address=" in log) != broken
    assert ("event=target_file_write_failed folder=/dev/null/targets" in log) == (
        running.path == "proxy"
    )  # Ray's own export


@pytest.mark.parametrize("route", ["/invocations", "/tokenize", CHAT, "/v1/completions", "/metrics", "/plan"])
def test_every_port_requires_a_key(running: PathService, route: str) -> None:
    method = "GET" if route in ("/metrics", "/plan") else "POST"
    urls = [running.service.url, *_replica_urls(running)]
    for url in urls:
        answer = httpx.request(method, url + route, json=running.body(prompt="x") if method == "POST" else None)
        assert answer.status_code == 401, (url, route)
        assert answer.json()["error"]["code"] == "missing_api_key"


def _replica_urls(running: PathService) -> list[str]:
    """Addresses that bypass the public port: the replica's own, and Ray's proxy that HAProxy falls back to."""
    # Without HAProxy: its ports are random, and may lie in the range of Ray's replicas.
    ports = [c.laddr.port for c in _listening(running) if 30000 <= c.laddr.port <= 31000]
    assert bool(ports) == (running.path == "haproxy")
    return [f"http://127.0.0.1:{port}" for port in [*ports, *_fallback(running)]]


def _fallback(running: PathService) -> list[int]:
    if running.path != "haproxy":
        return []
    (proxy,) = [p for p in running.service.family() if "ProxyActor" in " ".join(p.cmdline())]
    port = int(proxy.environ()["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"])
    listens = [c.laddr for c in proxy.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert ("127.0.0.1", port) in listens
    return [port]


def _listening(running: PathService) -> list[Any]:
    """Sockets on which Ray Serve's processes listen."""
    found = []
    for process in running.service.family():
        if "Serve" in " ".join(process.cmdline()):
            found += [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return found


def test_haproxy_listens_on_loopback_only(running: PathService) -> None:
    if running.path != "haproxy":
        assert "haproxy" not in [process.name() for process in running.service.family()]
        return
    programs = [process for process in running.service.family() if process.name() == "haproxy"]
    addresses = {c.laddr.ip for p in programs for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}


@pytest.mark.parametrize("stream", [True, False])
def test_disconnected_client_frees_its_sequence(running: PathService, stream: bool) -> None:
    running.wait_until_idle()
    before = running.metric("vllm:generation_tokens_total{")
    finished = running.metric('vllm:request_success_total{engine="0",finished_reason="length"')
    with httpx.Client(base_url=running.service.url, headers=running.client.headers, timeout=1.5) as client:
        body = running.body(stream=stream, **LONG)
        if stream:
            with client.stream("POST", CHAT, json=body) as answer:
                for number, _ in enumerate(answer.iter_lines()):
                    if number > 20:
                        break
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(CHAT, json=body)
    running.wait_until_idle()
    assert running.metric("vllm:generation_tokens_total{") - before < 2900
    assert running.metric('vllm:request_success_total{engine="0",finished_reason="length"') == finished


def test_stop_drains_open_streams_and_rejects_new_requests(running: PathService) -> None:
    """The last test of its service, which it ends."""
    family = running.service.family()
    lines: list[str] = []
    started = threading.Event()

    def read() -> None:
        with running.client.stream("POST", CHAT, json=running.body(stream=True, **DRAINED)) as stream:
            for line in stream.iter_lines():
                lines.append(line)
                started.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert started.wait(60)
    running.service.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    refused = running.client.post(CHAT, json=running.body(max_tokens=2))
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "draining"
    assert int(refused.headers["retry-after"]) >= 1
    reader.join(100)
    assert not reader.is_alive()
    events = [line for line in lines if line]
    assert events[-1] == "data: [DONE]"
    assert any('"finish_reason":"length"' in line for line in events[-3:])
    assert running.service.process.wait(60) == 0
    assert living(family) == []
