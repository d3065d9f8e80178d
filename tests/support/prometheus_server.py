"""Debian's Prometheus with the project's rules, for tests that observe a real service."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from hybridserve.errors import ServiceError
from hybridserve.observability.prometheus_api import Prometheus
from support.stack_service import free_port

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def start_prometheus(
    folder: Path, targets: Path, scrape: str = "1s", evaluation: str = "2s"
) -> tuple[Prometheus, subprocess.Popen[bytes]]:
    """Start it with the rules and the scrape configuration of deploy/, at shorter intervals."""
    programs = script("debian_tools").fetch("prometheus")
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": scrape, "evaluation_interval": evaluation}
    config["rule_files"] = [str(ROOT / "helm" / "hybridserve" / "files" / "rules" / "*.yaml")]
    config["scrape_configs"][0]["file_sd_configs"] = [{"files": [f"{targets}/*.json"], "refresh_interval": "1s"}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log,
        )  # fmt: skip
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    wait_until(lambda: answers(prometheus), 20)
    return prometheus, process


def answers(prometheus: Prometheus) -> bool:
    try:
        prometheus.query("up")
    except ServiceError:
        return False
    return True


def wait_until(condition: Callable[[], Any], timeout_s: float) -> None:
    """Wait until the condition is true; the test fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
