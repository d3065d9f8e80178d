"""A server with known delays: the first token after 10 ms, the others 5 ms apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.loadtest_mock import mock_server


@pytest.fixture(scope="session")
def mock_url() -> Iterator[str]:
    with mock_server("--first", "0.010", "--gap", "0.005", "--exact") as url:
        yield url
