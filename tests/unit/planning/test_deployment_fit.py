"""Plans of deployments: the engine's defaults, refusals, and the verdict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.catalog.accelerators import accelerators
from hybridserve.errors import PlanRefused
from hybridserve.planning.deployment import plan_deployment
from hybridserve.units import GIB
from support.planned_models import NANO_9B, QWEN3_8B, deployment_of

GPUS = [entry.id for entry in accelerators() if entry.memory_bytes]


@pytest.mark.parametrize(
    ("gpu", "seqs", "tokens"),
    [("a10g", 256, 2048), ("l40s", 256, 2048), ("a100-80gb", 256, 2048), ("h100", 1024, 8192), ("b200", 1024, 16384)],
)
def test_defaults_match_the_api_server(gpu, seqs, tokens):
    plan = plan_deployment(deployment_of(NANO_9B, gpu))
    assert (plan.max_num_seqs, plan.max_num_batched_tokens) == (seqs, tokens)
    assert plan.deployment.gpu_memory_utilization == 0.92


def test_defaults_do_not_start_on_a_small_gpu():
    plan = plan_deployment(deployment_of(NANO_9B, "a10g"))
    assert plan.verdict == "refused"
    assert plan.refusal is not None
    assert plan.refusal.where == "engine.max_num_seqs"
    assert "one cache block for each of 256 sequences" in plan.refusal.what


def test_more_sequences_than_blocks_is_refused_with_the_engine_message():
    plan = plan_deployment(deployment_of(NANO_9B, "l40s", kv_cache_memory_bytes=3 * GIB))
    assert plan.refusal is not None
    assert plan.refusal.what.startswith("max_num_seqs (256) exceeds available Mamba cache blocks (149)")


def test_more_sequences_than_blocks_starts_without_graphs():
    asked = deployment_of(NANO_9B, "l40s", kv_cache_memory_bytes=3 * GIB, enforce_eager=True)
    assert plan_deployment(asked).verdict == "starts"


def test_weights_that_do_not_fit_are_refused():
    plan = plan_deployment(deployment_of(NANO_9B, "a10g", total_bytes=16 * GIB))
    assert plan.verdict == "refused"
    assert plan.refusal is not None
    assert plan.refusal.what.startswith("No available memory for the cache blocks")
    assert "weights 16.56 GiB" in plan.refusal.what


def test_given_pool_that_is_too_large_is_refused():
    plan = plan_deployment(deployment_of(NANO_9B, "a10g", kv_cache_memory_bytes=6 * GIB, max_num_seqs=8))
    assert plan.refusal is not None
    assert plan.refusal.where == "engine.kv_cache_memory_bytes"


def test_utilization_above_free_memory_is_refused():
    plan = plan_deployment(deployment_of(NANO_9B, "a10g", gpu_memory_utilization=0.99, max_num_seqs=8))
    assert plan.refusal is not None
    assert plan.refusal.where == "engine.gpu_memory_utilization"
    assert plan.refusal.fix == "set it to at most 0.98"


def test_verdict_is_uncertain_if_only_the_high_end_fits():
    """128k of Nano 9B on an A10G at the default utilization: the estimate fits, its low end does not."""
    plan = plan_deployment(deployment_of(NANO_9B, "a10g", max_num_seqs=8))
    assert plan.verdict == "uncertain"
    assert plan.cache is not None
    assert plan.low is None
    assert any("low end" in warning for warning in plan.warnings)


def test_plan_of_a_known_pool_has_no_band():
    plan = plan_deployment(deployment_of(NANO_9B, "a10g", kv_cache_memory_bytes=4 * GIB, max_num_seqs=8))
    assert plan.low == plan.cache == plan.high
    assert plan.cache is not None
    # The same 4 GiB through vLLM's own allocator: 199 blocks, 228,801 tokens, 1.746 at 131,072.
    assert (plan.cache.num_blocks, plan.cache.tokens) == (199, 228_801)


def test_cpu_requires_a_pool_size():
    with pytest.raises(PlanRefused, match="kv-bytes") as caught:
        plan_deployment(deployment_of(NANO_9B, "cpu"))
    assert caught.value.where == "engine.kv_cache_memory_bytes"
    plan = plan_deployment(deployment_of(NANO_9B, "cpu", kv_cache_memory_bytes=4 * GIB))
    assert plan.budget.confidence == "known"
    assert plan.max_num_seqs == 128


@given(
    gpu=st.sampled_from(GPUS),
    config=st.sampled_from([NANO_9B, QWEN3_8B]),
    seqs=st.integers(1, 1024),
    length=st.integers(1, 40960),
    utilization=st.floats(0.3, 0.97),
)
def test_refusals_have_a_reason_and_the_band_is_ordered(gpu, config, seqs, length, utilization):
    plan = plan_deployment(
        deployment_of(config, gpu, max_num_seqs=seqs, max_model_len=length, gpu_memory_utilization=utilization)
    )
    assert (plan.cache is None) == (plan.refusal is not None)
    assert (plan.low is None) == (plan.low_refusal is not None)
    assert plan.verdict == ("starts" if plan.low else "uncertain" if plan.high else "refused")
    if plan.low is not None:
        assert plan.cache is not None
        assert plan.high is not None
        assert plan.low.num_blocks <= plan.cache.num_blocks <= plan.high.num_blocks
        assert plan.high.num_blocks * plan.layout.bytes_per_block <= plan.budget.kv + plan.budget.band
    for refusal in (plan.refusal, plan.low_refusal):
        if refusal is not None:
            assert refusal.where
            assert refusal.what
            assert refusal.fix
