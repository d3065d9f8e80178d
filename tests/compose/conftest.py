"""The Docker engine and the images of `make test-compose`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import docker_engine
import docker_tools


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    was_running = docker_tools.running()
    try:
        docker_tools.start()
        docker_tools.base()
    except docker_tools.Unavailable as problem:
        pytest.skip(f"no Docker engine on this machine: {problem}")
    yield
    if not was_running:
        docker_tools.stop()


@pytest.fixture(scope="session")
def images(engine: None) -> None:
    """Built from the Dockerfiles; unchanged layers come from the engine's cache."""
    docker_engine.build("deploy/Dockerfile.control", docker_engine.CONTROL)
    docker_engine.build("deploy/Dockerfile.cpu", docker_engine.CPU)
    docker_engine.build("deploy/Dockerfile.control", docker_engine.LOADTEST, "--target", "loadtest")
    docker_engine.build("tests/compose/Dockerfile.prometheus", docker_engine.PROMETHEUS_IMAGE)
