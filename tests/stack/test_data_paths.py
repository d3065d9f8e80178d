"""The three ways from a client to the engine: the same door in each, nothing beside it, a drain that loses nothing."""

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
from support.stack_service import Service, living, start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

CHAT = "/v1/chat/completions"
LONG = {"max_tokens": 3000, "min_tokens": 3000, "ignore_eos": True}
# Telemetry that cannot work: an address of nobody's, a folder below a file, a collector that is not there. Two of the
# three paths are tested with it, to the drain and the exit code: the service must not notice.
BROKEN = ("metrics_host=192.0.2.1", "targets_dir=/dev/null/targets", "otlp_endpoint=http://127.0.0.1:1")


class Reached:
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
            flags += [f"telemetry.{one}" for one in BROKEN]
        self.service: Service = start(
            ["--data-path", path, *(word for flag in flags for word in ("--set", flag))], log=self.log
        )
        # Made here: a TLS context takes seconds beside a busy engine.
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

    def rest(self) -> None:
        deadline = time.monotonic() + 30
        while self.metric("vllm:num_requests_running{"):
            assert time.monotonic() < deadline, "the engine does not come to rest"
            time.sleep(0.2)


@pytest.fixture(scope="module", params=["haproxy", "proxy", "single"])
def reached(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reached]:
    reached = Reached(request.param, tmp_path_factory.mktemp("path"))
    yield reached
    reached.client.close()
    reached.service.stop()


def test_an_answer_its_stream_and_one_request_id(reached: Reached) -> None:
    ident = {"x-request-id": "a-name-of-mine"}
    answer = reached.client.post(CHAT, json=reached.body(max_tokens=40), headers=ident)
    assert answer.status_code == 200, answer.text
    assert answer.headers.get_list("x-request-id") == ["a-name-of-mine"]
    said = answer.json()["choices"][0]["message"]
    pieces: dict[str, str] = {"content": "", "reasoning": ""}
    with reached.client.stream("POST", CHAT, json=reached.body(max_tokens=40, stream=True)) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            for name in pieces:
                pieces[name] += choice["delta"].get(name) or ""
    assert pieces == {"content": said["content"] or "", "reasoning": said["reasoning"] or ""}
    plan = reached.client.get("/plan").json()
    assert plan["holds"] is True
    assert plan["line"] == reached.service.cache


def test_every_metric_of_ours_is_exported(reached: Reached) -> None:
    """At the door; on the metrics ports, of which Prometheus is told, in test_telemetry_live."""
    text = reached.client.get("/metrics", headers={"authorization": f"Bearer {reached.operator}"}).text
    for spec in all_metrics():
        if spec.source != "autoscaler":  # of Ray's controller, which is another process and has a port of its own
            assert f"# TYPE {spec.name} {spec.kind}" in text, spec.name
    assert reached.metric("vllm:num_requests_running{") >= 0


def test_telemetry_trouble_is_told_and_does_no_harm(reached: Reached) -> None:
    told = reached.log.read_text()
    broken = reached.path != "haproxy"
    assert ("event=metrics_port_unavailable host=192.0.2.1" in told) == broken
    assert ("event=metrics_port address=" in told) != broken
    assert ("event=target_file_write_failed folder=/dev/null/targets" in told) == (
        reached.path == "proxy"
    )  # Ray's own export


@pytest.mark.parametrize("route", ["/invocations", "/tokenize", CHAT, "/v1/completions", "/metrics", "/plan"])
def test_nothing_answers_without_a_key(reached: Reached, route: str) -> None:
    method = "GET" if route in ("/metrics", "/plan") else "POST"
    doors = [reached.service.url, *_own_doors(reached)]
    for door in doors:
        answer = httpx.request(method, door + route, json=reached.body(prompt="x") if method == "POST" else None)
        assert answer.status_code == 401, (door, route)
        assert answer.json()["error"]["code"] == "missing_api_key"


def _own_doors(reached: Reached) -> list[str]:
    """Ports on which a replica can be reached around the proxy: its own, and Ray's proxy that HAProxy falls back to."""
    ports = [c.laddr.port for c in _listening(reached) if 30000 <= c.laddr.port <= 31000]
    assert bool(ports) == (reached.path == "haproxy")
    return [f"http://127.0.0.1:{port}" for port in [*ports, *_fallback(reached)]]


def _fallback(reached: Reached) -> list[int]:
    if reached.path != "haproxy":
        return []
    (proxy,) = [p for p in reached.service.family() if "ProxyActor" in " ".join(p.cmdline())]
    port = int(proxy.environ()["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"])
    listens = [c.laddr for c in proxy.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert ("127.0.0.1", port) in listens
    return [port]


def _listening(reached: Reached) -> list[Any]:
    found = []
    for process in reached.service.family():
        if process.name() == "haproxy" or "Serve" in " ".join(process.cmdline()):
            found += [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return found


def test_haproxy_listens_on_loopback_only(reached: Reached) -> None:
    if reached.path != "haproxy":
        assert "haproxy" not in [process.name() for process in reached.service.family()]
        return
    programs = [process for process in reached.service.family() if process.name() == "haproxy"]
    addresses = {c.laddr.ip for p in programs for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_sequence(reached: Reached, stream: bool) -> None:
    reached.rest()
    before = reached.metric("vllm:generation_tokens_total{")
    finished = reached.metric('vllm:request_success_total{engine="0",finished_reason="length"')
    with httpx.Client(base_url=reached.service.url, headers=reached.client.headers, timeout=1.5) as leaver:
        body = reached.body(stream=stream, **LONG)
        if stream:
            with leaver.stream("POST", CHAT, json=body) as answer:
                for number, _ in enumerate(answer.iter_lines()):
                    if number > 20:
                        break
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaver.post(CHAT, json=body)
    reached.rest()
    assert reached.metric("vllm:generation_tokens_total{") - before < 2900
    assert reached.metric('vllm:request_success_total{engine="0",finished_reason="length"') == finished


def test_a_stop_lets_open_streams_finish_and_takes_no_new_requests(reached: Reached) -> None:
    """The last test of its service: it ends it."""
    family = reached.service.family()
    lines: list[str] = []
    begun = threading.Event()

    def read() -> None:
        with reached.client.stream("POST", CHAT, json=reached.body(stream=True, **LONG)) as stream:
            for line in stream.iter_lines():
                lines.append(line)
                begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(60)
    reached.service.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    refused = reached.client.post(CHAT, json=reached.body(max_tokens=2))
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "draining"
    assert int(refused.headers["retry-after"]) >= 1
    reader.join(100)
    assert not reader.is_alive()
    told = [line for line in lines if line]
    assert told[-1] == "data: [DONE]"
    assert any('"finish_reason":"length"' in line for line in told[-3:])
    assert reached.service.process.wait(60) == 0
    assert living(family) == []
