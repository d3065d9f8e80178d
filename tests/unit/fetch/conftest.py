"""One hub for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support.fake_hub import Running, running


@pytest.fixture
def hub_server() -> Iterator[Running]:
    with running() as state:
        yield state
