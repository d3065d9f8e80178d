"""The two models that most tests use."""

from __future__ import annotations

import pytest

from hybridserve.planning.models import Architecture
from support.planned_models import NANO_9B, QWEN3_8B, arch_of


@pytest.fixture(scope="session")
def nano() -> Architecture:
    return arch_of(NANO_9B)


@pytest.fixture(scope="session")
def qwen() -> Architecture:
    return arch_of(QWEN3_8B)
