"""Fast, and light: no torch, no vllm, no ray."""

from __future__ import annotations

import subprocess
import sys
import time

from hybridserve.catalog.models import resolve_model
from hybridserve.planning.cache.layout import plan_cache
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.models import read_architecture


def test_a_plan_takes_less_than_a_millisecond():
    """Processor time, best of five runs of 200 plans: the machine may be busy with something else."""
    arch = read_architecture(resolve_model("nemotron-nano-9b-v2").config)
    plan_cache(arch, CacheRequest(kv_bytes=4 << 30))

    def run() -> float:
        start = time.process_time()
        for extra in range(200):
            plan_cache(arch, CacheRequest(kv_bytes=(4 << 30) + extra))
        return (time.process_time() - start) / 200

    assert min(run() for _ in range(5)) < 1e-3


def test_ten_thousand_plans_take_seconds():
    """Processor time of a sweep over memory, length and concurrency; a second on a quiet machine."""
    arch = read_architecture(resolve_model("nemotron-nano-9b-v2").config)
    start = time.process_time()
    blocks = [
        plan_cache(arch, CacheRequest(kv_bytes=(4 + step) << 29, max_model_len=length, max_num_seqs=seqs)).num_blocks
        for step in range(100)
        for length in range(1024, 9216, 820)
        for seqs in range(1, 11)
    ]
    assert len(blocks) == 10_000
    assert len(set(blocks)) == 100
    assert time.process_time() - start < 5


def test_planning_imports_no_engine():
    """In a process of its own: read a card, make a plan, look at what was imported."""
    script = """
import sys
from hybridserve.catalog.models import resolve_model
from hybridserve.planning.models import read_architecture
from hybridserve.planning.cache.layout import plan_cache
from hybridserve.planning.cache.types import CacheRequest
plan = plan_cache(read_architecture(resolve_model("nemotron-nano-9b-v2").config), CacheRequest(kv_bytes=4 << 30))
assert plan.num_blocks == 199
heavy = {"torch", "vllm", "ray", "transformers", "fastapi", "numpy", "starlette"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
