"""The stack's own helpers, for services that live as long as a module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent / "stack"))


@pytest.fixture(scope="module")
def start_module_service() -> Iterator[Callable[..., Any]]:
    from stack_service import start

    started: list[Any] = []

    def factory(*flags: str) -> Any:
        started.append(start(flags))
        return started[-1]

    yield factory
    for running in started:
        running.stop()
