"""The memory estimate: compared with a published start-up log, and its invariants."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybridserve.planning.memory.budget import MemoryRequest, budget_memory, capture_sizes
from hybridserve.planning.memory.weights import count_weights
from hybridserve.units import GIB
from support.planned_models import NANO_9B, arch_of

# Bytes of a block of Nemotron Nano 9B v2: four layers of a group, each with a page of 5.125 MiB.
BLOCK_BYTES = 4 * 5_373_952


def request(**changes):
    fields = {
        "total_bytes": 22 * GIB,
        "gpu_memory_utilization": 0.92,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 2048,
        "max_capture_size": 32,
    }
    return MemoryRequest(**{**fields, **changes})


def test_estimate_matches_a_published_startup_log(qwen):
    """Qwen3-8B on a 24 GB card, vLLM 0.21 or later: 6.37 GiB of cache (LMCache issue 3430).

    The log says that a utilization of 0.9764 equals 0.9543 without counting the graphs: 0.0221 of the device's memory
    is 0.52 GiB, so the device has 23.53 GiB.
    """
    budget = budget_memory(
        qwen,
        count_weights(qwen),
        request(total_bytes=round(23.53 * GIB), gpu_memory_utilization=0.9764, max_num_seqs=256, max_capture_size=512),
        2_359_296,
    )
    assert budget.confidence == "estimate"
    assert abs(budget.kv / GIB - 6.37) < budget.band / GIB < 0.8


def test_capture_sizes_match_the_engine_log():
    # From vLLM's start-up logs: "Profiling CUDA graph memory: PIECEWISE=51 (largest=512), FULL=35 (largest=256)"
    assert (capture_sizes(512), capture_sizes(256)) == (51, 35)
    # "PIECEWISE=35 (largest=256), FULL=19 (largest=128)" and "PIECEWISE=11 (largest=64), FULL=7 (largest=32)"
    assert (capture_sizes(128), capture_sizes(64), capture_sizes(32)) == (19, 11, 7)
    assert (capture_sizes(1), capture_sizes(8)) == (1, 4)


def test_fixed_kv_cache_size_is_known_without_graph_profiling(nano):
    budget = budget_memory(nano, count_weights(nano), request(kv_cache_memory_bytes=3 * GIB), BLOCK_BYTES)
    assert (budget.kv, budget.band, budget.confidence) == (3 * GIB, 0, "known")
    assert budget.profiling_cache == 0


def test_profiled_kv_cache_size_is_known(nano):
    budget = budget_memory(nano, count_weights(nano), request(profiled_kv_bytes=3 * GIB), BLOCK_BYTES)
    assert (budget.kv, budget.band, budget.confidence) == (3 * GIB, 0, "known")
    assert budget.profiling_cache == 16 * BLOCK_BYTES


def test_graph_profiling_needs_a_block_per_sequence(nano):
    budget = budget_memory(nano, count_weights(nano), request(max_num_seqs=256, max_capture_size=512), BLOCK_BYTES)
    assert budget.profiling_cache == 256 * BLOCK_BYTES
    assert budget.startup_peak > 22 * GIB


def test_eager_mode_has_no_graphs(nano):
    budget = budget_memory(nano, count_weights(nano), request(max_capture_size=0), BLOCK_BYTES)
    assert (budget.graphs, budget.profiling_cache) == (0, 0)


@given(
    total=st.integers(8, 200),
    utilization=st.floats(0.1, 1.0),
    seqs=st.integers(1, 1024),
    tokens=st.integers(1, 16384),
)
def test_parts_add_up_and_cache_grows_with_memory(total, utilization, seqs, tokens):
    arch = arch_of(NANO_9B)
    weights = count_weights(arch)
    fields = {"gpu_memory_utilization": utilization, "max_num_seqs": seqs, "max_num_batched_tokens": tokens}
    small = budget_memory(arch, weights, request(total_bytes=total * GIB, **fields), BLOCK_BYTES)
    large = budget_memory(arch, weights, request(total_bytes=(total + 1) * GIB, **fields), BLOCK_BYTES)
    assert small.weights + small.runtime + small.activation + small.graphs + small.kv == small.requested
    assert small.kv <= large.kv
    assert small.requested <= small.total + 1
    fewer = budget_memory(
        arch, weights, request(total_bytes=total * GIB, **{**fields, "max_num_seqs": max(1, seqs // 2)}), BLOCK_BYTES
    )
    assert fewer.kv >= small.kv
