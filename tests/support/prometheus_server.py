"""Debian's Prometheus with our rules, for tests that watch a real service."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from hybridserve.errors import ServiceError
from hybridserve.observability.prometheus_client import Prometheus
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
    """Debian's Prometheus with our rules and the scrape configuration of deploy/, only faster."""
    programs = script("prometheus_tools").fetch()
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": scrape, "evaluation_interval": evaluation}
    config["rule_files"] = [str(ROOT / "deploy" / "prometheus" / "rules" / "*.yaml")]
    config["scrape_configs"][0]["file_sd_configs"] = [{"files": [f"{targets}/*.json"], "refresh_interval": "1s"}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log,
        )  # fmt: skip
    asked = Prometheus(f"http://127.0.0.1:{port}")
    wait_until(lambda: answers(asked), 20)
    return asked, process


def answers(prometheus: Prometheus) -> bool:
    try:
        prometheus.now("up")
    except ServiceError:
        return False
    return True


def wait_until(true: Any, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)
