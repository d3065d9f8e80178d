"""Services that live as long as a module, and a Prometheus that watches them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Watched:
    """A service and the Prometheus that scrapes it every five seconds."""

    service: Any
    prometheus: Any
    targets: Path


@pytest.fixture(scope="module")
def start_module_service() -> Iterator[Callable[..., Any]]:
    from support.stack_service import start

    started: list[Any] = []

    def factory(*flags: str) -> Any:
        started.append(start(flags))
        return started[-1]

    yield factory
    for running in started:
        running.stop()


@pytest.fixture(scope="module")
def start_watched(
    start_module_service: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Watched]]:
    from support.prometheus_server import start_prometheus
    from support.stack_service import free_port

    processes = []

    def factory(*flags: str) -> Watched:
        folder = tmp_path_factory.mktemp("prometheus")
        targets = folder / "targets"
        targets.mkdir()
        prometheus, process = start_prometheus(folder, targets, scrape="5s", evaluation="5s")
        processes.append(process)
        sets = [f"telemetry.targets_dir={targets}", f"telemetry.metrics_port={free_port()}"]
        service = start_module_service(*flags, *[x for value in sets for x in ("--set", value)])
        time.sleep(12)  # a scrape and an evaluation: what holds from the beginning is no sign of a fault
        return Watched(service, prometheus, targets)

    yield factory
    for process in processes:
        process.terminate()
        process.wait(timeout=20)
