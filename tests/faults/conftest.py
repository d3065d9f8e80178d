"""Services that live as long as a module, each with a Prometheus."""

from __future__ import annotations

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


def settings_flags(values: dict[str, Any]) -> list[str]:
    """`--set PATH=VALUE` for each."""
    return [word for path, value in values.items() for word in ("--set", f"{path}={value}")]


@pytest.fixture(scope="module")
def start_module_service() -> Iterator[Callable[..., Any]]:
    from support.stack_service import start

    started: list[Any] = []

    def factory(data_path: str, **values: Any) -> Any:
        flags = settings_flags({path.replace("__", "."): value for path, value in values.items()})
        started.append(start(["--data-path", data_path, *flags]))
        return started[-1]

    yield factory
    for running in started:
        running.stop()


@pytest.fixture(scope="module")
def start_watched(
    start_module_service: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Watched]]:
    from support.prometheus_server import start_prometheus, wait_until
    from support.stack_service import free_port

    processes = []

    def factory(data_path: str, **values: Any) -> Watched:
        folder = tmp_path_factory.mktemp("prometheus")
        targets = folder / "targets"
        targets.mkdir()
        prometheus, process = start_prometheus(folder, targets, scrape="5s", evaluation="5s")
        processes.append(process)
        values |= {"telemetry__targets_dir": targets, "telemetry__metrics_port": free_port()}
        service = start_module_service(data_path, **values)
        # Scraped, and the rules evaluated: what is true from the beginning is no sign of a fault.
        wait_until(lambda: prometheus.query("hybridserve:state_slots:utilization"), 60)
        return Watched(service, prometheus, targets)

    yield factory
    for process in processes:
        process.terminate()
        process.wait(timeout=20)
