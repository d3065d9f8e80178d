"""The real stack for the tests in this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.stack_service import Service, start


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """One service for all tests that only send requests."""
    running = start()
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
