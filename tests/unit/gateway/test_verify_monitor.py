"""A replica serves nothing until its engine has passed the numeric check."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from hybridserve.gateway.verify_monitor import DIRECT, VerifyMonitor
from hybridserve.observability.metrics import GatewayMetrics
from hybridserve.settings.verify import VerifySection
from support.toy_engine import ToyEngine

TOKEN = object()
GIVEN = {"dtype": "bfloat16", "block_size": 32}


def monitor(section: VerifySection, registry: CollectorRegistry) -> VerifyMonitor:
    return VerifyMonitor(section, "demo", GIVEN, GatewayMetrics(registry), TOKEN)


@pytest.mark.parametrize(
    ("engine", "fault", "passed"),
    [
        (ToyEngine(noise=0.01), None, 1.0),
        (ToyEngine(noise=1.0), "log-probabilities are wrong: warm", 0.0),
    ],
)
async def test_the_verdict_is_kept_and_exported(engine: ToyEngine, fault: str | None, passed: float) -> None:
    registry = CollectorRegistry()
    check = monitor(VerifySection(at_start=True, concurrency=4, pressure=0), registry)
    assert check.fault == "the engine is being checked"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope[DIRECT] is TOKEN
        await engine(scope, receive, send)

    await check.run(app)
    assert check.finished.is_set()
    assert (check.fault or "")[:20] == (fault or "")[:20]
    assert registry.get_sample_value("hybridserve_verify_passed", {"against": "itself"}) == passed


async def test_an_engine_that_does_not_answer_fails() -> None:
    registry = CollectorRegistry()
    check = monitor(VerifySection(at_start=True), registry)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionResetError("gone")

    await check.run(app)
    assert "ConnectionResetError" in (check.fault or "")
    assert registry.get_sample_value("hybridserve_verify_passed", {"against": "itself"}) == 0.0


async def test_a_trusted_replica_writes_a_reference_that_the_next_one_uses(tmp_path: Path) -> None:
    file = tmp_path / "reference.json"
    first = VerifySection(at_start=True, concurrency=4, pressure=0, record_file=file)
    await asyncio.wait_for(monitor(first, CollectorRegistry()).run(ToyEngine(noise=0.001)), 60)
    second = VerifySection(at_start=True, concurrency=4, pressure=0, reference_file=file)
    registry = CollectorRegistry()
    broken = monitor(second, registry)
    await broken.run(ToyEngine(noise=0.001, broken=lambda _: True))
    assert registry.get_sample_value("hybridserve_verify_passed", {"against": "reference"}) == 0.0
    right = monitor(second, CollectorRegistry())
    assert right.verdict["passed"] is False
    await right.run(ToyEngine(noise=0.001))
    assert right.fault is None
    assert right.verdict == {"passed": True, "reference": json.loads(file.read_text())["sha256"]}
