"""The two models that most tests of this folder plan."""

from __future__ import annotations

import pytest
from planned_models import NANO_9B, QWEN3_8B, arch_of

from hybridserve.planning.architecture import Architecture


@pytest.fixture(scope="session")
def nano() -> Architecture:
    return arch_of(NANO_9B)


@pytest.fixture(scope="session")
def qwen() -> Architecture:
    return arch_of(QWEN3_8B)
