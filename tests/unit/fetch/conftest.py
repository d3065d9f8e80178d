"""One hub for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fake_hub import Running, running


@pytest.fixture
def hub_server() -> Iterator[Running]:
    with running() as state:
        yield state
