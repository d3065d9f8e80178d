"""Every chart test needs the pinned Helm: fetched once, and an error (never a skip) where it cannot be had."""

from __future__ import annotations

import pytest
from chart_helm import chart_tools


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/chart/" in item.path.as_posix():
            item.add_marker(pytest.mark.chart)


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    chart_tools.fetch()
