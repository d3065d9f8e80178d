"""promtool, and a replica's state made from numbers."""

from __future__ import annotations

import importlib.util
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from hybridserve.autoscaling.capacity import ReplicaCapacity
from hybridserve.autoscaling.replica_metrics import ReplicaMetrics
from hybridserve.observability.collectors.replica import ReplicaCollector, ReplicaFacts
from hybridserve.observability.collectors.slo import SLOCollector
from hybridserve.observability.metrics import EngineMetrics
from hybridserve.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Debian's promtool, fetched once. Where it cannot be had these tests fail: nothing else would check the rules."""
    spec = importlib.util.spec_from_file_location("debian_tools", ROOT / "scripts" / "debian_tools.py")
    assert spec is not None
    assert spec.loader is not None
    tools = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tools)
    folder: Path = tools.fetch("prometheus")
    return folder / "promtool"


PLAN: dict[str, Any] = {
    "engine": {"num_gpu_blocks": 90, "block_size": 64, "kv_cache_size_tokens": 2880, "max_model_len": 1024},
    "plan": {"num_gpu_blocks": 101, "block_size": 64, "max_model_len": 1024, "bytes_per_block": 32768},
    "differences": ["num_gpu_blocks: planned 101, the engine reports 90"],
}
FINDINGS = [
    {"severity": "error", "status": "PASS", "applies": True},
    {"severity": "error", "status": "FAIL", "applies": True},
    {"severity": "warning", "status": "FAIL", "applies": True},
    {"severity": "error", "status": "PASS", "applies": True},
    {"severity": "error", "status": "PASS", "applies": False},
]
LICENSES = {"models": [{"role": "model", "licenses": [{"id": "apache-2.0", "read": "2026-11-14"}]}]}


@pytest.fixture
def outcomes() -> SLOCollector:
    return SLOCollector(EngineMetrics(), ttft_s=1.0, inter_token_s=0.05, cacheable_min=64)


@pytest.fixture
def state() -> ReplicaCollector:
    """A busy replica whose engine got 11 blocks fewer than planned."""
    build = {"version": "1", "vllm": "0.29.0", "ray": "2.60.0", "mode": "ray", "profile": "demo"}
    capacity = ReplicaCapacity(8, 89, 64, 2, 1, 1e12)
    facts = ReplicaFacts(Settings(), capacity, PLAN, FINDINGS, LICENSES, True, build)
    current = ReplicaMetrics("r", running=5, waiting=3, blocks_used=21, state_blocks_used=10, age_s=0.5)
    return ReplicaCollector(facts, lambda: current, today=lambda: date(2026, 11, 24))
