"""Recommendations: the engine starts with them, and user settings are not changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.catalog.accelerators import accelerators
from hybridserve.catalog.models import resolve_model
from hybridserve.errors import PlanRefused
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.deployment import Deployment, DeploymentPlan, plan_deployment
from hybridserve.planning.recommend import Recommendation, recommend
from hybridserve.planning.workload import ASSUMED, from_quantiles
from hybridserve.units import GIB
from support.planned_models import NANO_9B, QWEN3_8B, deployment_of

# Devices whose memory takes the weights of both models.
GPUS = [entry.id for entry in accelerators() if (entry.memory_bytes or 0) > 20 * GIB]
GOALS = ("throughput", "latency", "context")


def follow(asked: Deployment, advice: Recommendation) -> DeploymentPlan:
    """Plan what is left when only the printed flags are typed in."""
    values = {name: value for name, value in advice.values.items() if name != "watermark"}
    of_cache = CacheRequest.__dataclass_fields__.keys() - Deployment.__dataclass_fields__
    cache = {name: values.pop(name) for name in list(values) if name in of_cache}
    return plan_deployment(replace(asked, cache=replace(asked.cache, **cache), **values))


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("config", [NANO_9B, QWEN3_8B], ids=["nano-9b", "qwen3-8b"])
def test_recommended_flags_start_at_the_low_end_of_the_band(config, gpu, goal):
    asked = deployment_of(config, gpu)
    advice = recommend(asked, ASSUMED, goal)
    followed = follow(asked, advice)
    assert followed.verdict == "starts"
    assert followed.cache == advice.plan.cache
    assert followed.low is not None
    # The sequences that are admitted also fit.
    length = min(ASSUMED.p95, followed.low.max_model_len)
    fits = followed.low.n_safe(length) if goal == "latency" else followed.low.n_steady(length)
    assert followed.max_num_seqs <= max(1, fits)


@given(
    gpu=st.sampled_from(GPUS),
    prompt=st.integers(1, 60_000),
    output=st.integers(1, 20_000),
    goal=st.sampled_from(GOALS),
    reuse=st.sampled_from(["unknown", "independent", "shared"]),
    seqs=st.none() | st.integers(1, 300),
    length=st.none() | st.integers(1, 131072),
    pool=st.none() | st.integers(GIB // 2, 64 * GIB),
    caching=st.booleans(),
)
def test_user_settings_are_kept_or_refused(gpu, prompt, output, goal, reuse, seqs, length, pool, caching):
    asked = deployment_of(
        NANO_9B,
        gpu,
        max_num_seqs=seqs,
        max_model_len=length,
        kv_cache_memory_bytes=pool,
        enable_prefix_caching=caching,
    )
    workload = from_quantiles(str(prompt), str(output))
    try:
        advice = recommend(asked, workload, goal, reuse)
    except PlanRefused as refusal:
        said = refusal.where and refusal.what and refusal.fix
        advice = None
    if advice is None:
        assert said
        return
    names = [flag.name for flag in advice.flags]
    assert len(names) == len(set(names))
    assert all(flag.reason and flag.gain for flag in advice.flags)
    assert follow(asked, advice).verdict == "starts"
    if seqs is not None:
        assert advice.values["max_num_seqs"] == seqs
    if length is not None:
        assert advice.values["max_model_len"] == length
    if pool is not None:
        assert advice.values["kv_cache_memory_bytes"] == pool
        assert "gpu_memory_utilization" not in advice.values
    if not caching:
        assert advice.values["enable_prefix_caching"] is False


def test_128k_context_fits_on_an_a10g():
    asked = deployment_of(NANO_9B, "a10g", max_model_len=131072)
    advice = recommend(asked, ASSUMED, "throughput")
    assert advice.goal == "context"
    assert advice.values["gpu_memory_utilization"] == 0.95
    assert follow(asked, advice).verdict == "starts"


def test_refusal_names_settings_that_fit():
    with pytest.raises(PlanRefused) as caught:
        recommend(deployment_of(QWEN3_8B, "a10g", max_model_len=40960), ASSUMED)
    assert caught.value.where == "engine.max_model_len"
    assert "estimated maximum model length" in caught.value.what
    for named in ("--kv-cache-dtype fp8", "engine.tensor_parallel_size=2", "--gpu l40s"):
        assert named in caught.value.fix


def test_prefill_chunks_are_whole_blocks():
    advice = recommend(deployment_of(NANO_9B, "l40s"), ASSUMED)
    block = advice.plan.layout.block_size
    tokens, seqs = advice.values["max_num_batched_tokens"], advice.values["max_num_seqs"]
    assert block == 1312
    assert (tokens - seqs) % block == 0
    assert tokens - seqs >= 2048
    transformer = recommend(deployment_of(QWEN3_8B, "l40s"), ASSUMED)
    assert transformer.values["max_num_batched_tokens"] == 2048


@pytest.mark.parametrize(
    ("reuse", "prompt", "kept"),
    [
        ("independent", "300", False),
        ("shared", "300", True),
        ("unknown", "300", True),
        ("independent", "30000", True),
    ],
)
def test_prefix_caching_is_disabled_only_for_short_independent_requests(reuse, prompt, kept):
    advice = recommend(deployment_of(NANO_9B, "a10g"), from_quantiles(prompt, "300"), "throughput", reuse)
    assert advice.values["enable_prefix_caching"] is kept
    assert advice.plan.layout.mode == ("align" if kept else "none")


def test_latency_goal_admits_n_safe_without_watermark():
    throughput = recommend(deployment_of(NANO_9B, "l40s"), ASSUMED, "throughput")
    latency = recommend(deployment_of(NANO_9B, "l40s"), ASSUMED, "latency")
    assert latency.plan.low is not None
    assert latency.plan.max_num_seqs <= latency.plan.low.n_safe(ASSUMED.p95) < throughput.plan.max_num_seqs
    assert "watermark" in throughput.values
    assert "watermark" not in latency.values


def test_state_dtype_is_explicit():
    assert recommend(deployment_of(NANO_9B, "h100"), ASSUMED).values["mamba_ssm_cache_dtype"] == "float32"
    half = recommend(deployment_of(NANO_9B, "h100", mamba_ssm_cache_dtype="bfloat16"), ASSUMED)
    assert half.values["mamba_ssm_cache_dtype"] == "bfloat16"
    assert "mamba_ssm_cache_dtype" not in recommend(deployment_of(QWEN3_8B, "h100"), ASSUMED).values
    kimi = recommend(deployment_of(resolve_model("kimi-linear-48b-a3b").config, "b200"), ASSUMED)
    assert kimi.values["mamba_ssm_cache_dtype"] == kimi.plan.layout.mamba_ssm_cache_dtype == "float32"


def test_a_model_without_attention_gives_its_own_reason_for_no_prefix_caching():
    advice = recommend(deployment_of(resolve_model("mamba-2.8b").config, "h100", enable_prefix_caching=False), ASSUMED)
    assert next(flag.reason for flag in advice.flags if flag.name == "enable_prefix_caching").startswith("the engine's")


def test_alternatives_are_planned_but_not_applied():
    advice = recommend(deployment_of(NANO_9B, "a10g"), ASSUMED)
    options = {option.name: option for option in advice.alternatives}
    assert options["prefix_match_unit"].value == 32
    assert 1312 % 32 == 0
    assert "kv_cache_dtype" in options
    assert not set(options) & {"max_num_seqs", "max_model_len"}
    # The pool it offers makes the pool of the same plan known, and it starts.
    pool = options["kv_cache_memory_bytes"].value
    known = plan_deployment(replace(advice.plan.deployment, kv_cache_memory_bytes=pool))
    assert (known.verdict, known.budget.confidence) == ("starts", "known")


def test_cpu_pool_is_small():
    advice = recommend(deployment_of({**NANO_9B, "max_position_embeddings": 2048}, "cpu"), ASSUMED)
    assert advice.values["kv_cache_memory_bytes"] % (64 << 20) == 0
    assert advice.plan.budget.confidence == "known"
    assert advice.values["max_num_seqs"] == 8
