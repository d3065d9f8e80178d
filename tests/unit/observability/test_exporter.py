"""The metrics port of a process, and its target file for Prometheus."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client import CollectorRegistry, Gauge

from hybridserve.cli.app import main
from hybridserve.errors import ConfigError
from hybridserve.observability.metrics_server import announce, export, forget_dead
from hybridserve.settings import Option, load
from hybridserve.settings.telemetry import TelemetrySection

LABELS = {"namespace": "local", "model": "demo", "replica": "a"}


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("answer", "Of everything.", registry=registry).set(42)
    return registry


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_each_process_gets_its_own_port_and_target_file(tmp_path: Path, registry: CollectorRegistry, port: int) -> None:
    section = TelemetrySection(metrics_port=port, targets_dir=tmp_path)
    first, second = export(section, registry, LABELS), export(section, registry, LABELS)
    assert first is not None
    assert second is not None
    assert first.address != second.address
    for exporter in (first, second):
        assert "answer 42.0" in httpx.get(f"http://{exporter.address}/metrics", trust_env=False).text
        assert exporter.file is not None
        assert json.loads(exporter.file.read_text()) == [{"targets": [exporter.address], "labels": LABELS}]


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3",
    ],
    ids=["Prometheus 2", "Prometheus 3"],
)
def test_vllm_metric_names_keep_their_colon(registry: CollectorRegistry, port: int, accept: str) -> None:
    Gauge("vllm:num_requests_running", "Of the engine.", registry=registry).set(3)
    exporter = export(TelemetrySection(metrics_port=port), registry, LABELS)
    assert exporter is not None
    scraped = httpx.get(f"http://{exporter.address}/metrics", headers={"accept": accept}, trust_env=False)
    assert "vllm:num_requests_running 3.0" in scraped.text
    assert scraped.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_ipv6_address(registry: CollectorRegistry, port: int) -> None:
    exporter = export(TelemetrySection(metrics_host="::1", metrics_port=port), registry, LABELS)
    assert exporter is not None
    assert exporter.address == f"[::1]:{port}"
    assert "answer 42.0" in httpx.get(f"http://{exporter.address}/metrics", trust_env=False).text


def test_unavailable_port_or_folder_is_logged(
    tmp_path: Path, registry: CollectorRegistry, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="hybridserve")  # vLLM, imported by other tests, raises the root's level
    assert export(TelemetrySection(metrics_port=0), registry, LABELS) is None
    assert export(TelemetrySection(metrics_host="192.0.2.1", metrics_port=port), registry, LABELS) is None
    assert "metrics_port_unavailable" in caplog.messages
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    shown = export(TelemetrySection(metrics_port=port, targets_dir=blocked), registry, LABELS)
    assert shown is not None
    assert shown.file is None
    assert "target_file_write_failed" in caplog.messages


def test_target_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    code = "import sys,os,pathlib; from hybridserve.observability.metrics_server import announce; "
    code += "announce(pathlib.Path(sys.argv[1]), '127.0.0.1:1', {}); os._exit(1)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (dead,) = tmp_path.glob("*.json")
    mine = announce(tmp_path, "127.0.0.1:2", {})
    assert not dead.exists()
    assert mine is not None
    forget_dead(tmp_path)
    assert mine.exists()
    assert str(os.getpid()) in mine.name


def test_target_file_older_than_its_process_is_removed(tmp_path: Path) -> None:
    """A container that was killed and restarted has the same name and process ids as before."""
    old = announce(tmp_path, "127.0.0.1:1", {})
    assert old is not None
    os.utime(old, (0, psutil.Process().create_time() - 10))
    forget_dead(tmp_path)
    assert not old.exists()


def test_target_file_is_removed_at_exit(tmp_path: Path) -> None:
    code = "import sys,pathlib; from hybridserve.observability.metrics_server import announce; "
    code += "assert announce(pathlib.Path(sys.argv[1]), '127.0.0.1:1', {}).exists()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert list(tmp_path.iterdir()) == []


def test_invalid_slo_target_is_one_error_of_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in (["alerts", "export", "--out", str(tmp_path)], ["dashboards", "export", "--out", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--set", "telemetry.slo_ttft_s=2"])
        assert ended.value.code == 2
        text = capsys.readouterr().err
        assert "slo_ttft_s 2 is not a bucket of the engine's histogram" in text
        assert "set telemetry.slo_ttft_s to 1 or 2.5" in text
        assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"slo_ttft_s": 2.0}, "set telemetry.slo_ttft_s to 1 or 2.5"),
        ({"slo_ttft_s": 3.0}, "set telemetry.slo_ttft_s to 2.5 or 5"),
        ({"slo_ttft_s": 0.0001}, "set telemetry.slo_ttft_s to 0.001"),
        ({"slo_ttft_s": 3000.0}, "set telemetry.slo_ttft_s to 2560"),
        ({"slo_inter_token_s": 0.06}, "set telemetry.slo_inter_token_s to 0.05 or 0.075"),
        ({"slo_availability": 1.0}, "a number below 1"),
        ({"slo_attainment": 0}, "a number above 0"),
    ],
)
def test_slo_targets_must_be_bucket_limits(wrong: dict[str, float], fix: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(environ={}, options=[Option("--typed", f"telemetry.{name}", value) for name, value in wrong.items()])
    assert fix in refused.value.fix
