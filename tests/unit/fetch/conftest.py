"""One hub for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from support.fake_hub import FakeHub, running


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    # The engine tests, which may run before in this process, set it for themselves.
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    # The library writes 10 MB at a time, more than the demo model has.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    with running() as state:
        yield state
