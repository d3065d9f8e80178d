"""The real stack for the tests in this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.stack_service import Service, start


@pytest.fixture(scope="session")
def cache_traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which `service` records its requests for `hybridserve cache explain`."""
    return tmp_path_factory.mktemp("cache-traces")


@pytest.fixture(scope="session")
def service(cache_traces: Path) -> Iterator[Service]:
    """One service for all tests that only send requests."""
    running = start(["--set", f"telemetry.cache_trace_dir={cache_traces}"])
    yield running
    assert running.stop() == 0


@pytest.fixture
def start_service() -> Iterator[Callable[..., Service]]:
    """A factory for tests that need a separate service; every service that it started is stopped."""
    started: list[Service] = []

    def factory(*flags: str, port: int | None = None) -> Service:
        started.append(start(flags, port))
        return started[-1]

    yield factory
    for running in started:
        running.stop()
