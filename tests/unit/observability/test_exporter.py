"""The metrics port of a process, and the file that tells Prometheus of it."""

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
from pydantic import ValidationError

from hybridserve.cli.app import main
from hybridserve.observability.metrics_server import announce, export, forget_dead
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


def test_two_processes_of_one_machine_get_two_ports_and_two_files(
    tmp_path: Path, registry: CollectorRegistry, port: int
) -> None:
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
def test_names_of_the_engine_keep_their_colon(registry: CollectorRegistry, port: int, accept: str) -> None:
    Gauge("vllm:num_requests_running", "Of the engine.", registry=registry).set(3)
    exporter = export(TelemetrySection(metrics_port=port), registry, LABELS)
    assert exporter is not None
    scraped = httpx.get(f"http://{exporter.address}/metrics", headers={"accept": accept}, trust_env=False)
    assert "vllm:num_requests_running 3.0" in scraped.text
    assert scraped.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_an_address_of_the_sixth_version(registry: CollectorRegistry, port: int) -> None:
    exporter = export(TelemetrySection(metrics_host="::1", metrics_port=port), registry, LABELS)
    assert exporter is not None
    assert exporter.address == f"[::1]:{port}"
    assert "answer 42.0" in httpx.get(f"http://{exporter.address}/metrics", trust_env=False).text


def test_no_port_no_folder_no_harm(
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


def test_files_of_the_dead_go_when_the_next_one_starts(tmp_path: Path) -> None:
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


def test_a_file_older_than_the_process_of_its_id_is_of_another_one(tmp_path: Path) -> None:
    """As in a container that was killed and started again: its name and its process ids are those of before."""
    old = announce(tmp_path, "127.0.0.1:1", {})
    assert old is not None
    os.utime(old, (0, psutil.Process().create_time() - 10))
    forget_dead(tmp_path)
    assert not old.exists()


def test_a_process_that_ends_takes_its_file_along(tmp_path: Path) -> None:
    code = "import sys,pathlib; from hybridserve.observability.metrics_server import announce; "
    code += "assert announce(pathlib.Path(sys.argv[1]), '127.0.0.1:1', {}).exists()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_target_is_one_clear_error_with_its_place(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in (["alerts", "export", "--out", str(tmp_path)], ["dashboards", "export", "--out", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--set", "telemetry.slo_ttft_s=2"])
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert "slo_ttft_s 2 is no bound of the engine's histogram" in told
        assert "nearest are 1 and 2.5" in told
        assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"slo_ttft_s": 2.0}, "nearest are 1 and 2.5"),
        ({"slo_inter_token_s": 0.06}, "nearest are 0.05 and 0.075"),
        ({"slo_availability": 1.0}, "less than 1"),
        ({"slo_goodput": 0}, "greater than 0"),
    ],
)
def test_targets_that_cannot_be_counted_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TelemetrySection(**wrong)
