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
    for named in ("engine.kv_cache_dtype=fp8", "engine.tensor_parallel_size=2", "--gpu l40s"):
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
    assert "`hybridserve check` refuses it in production" in half.flags[0].reason
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


GRANITE = resolve_model("granite-4.0-h-small").config


def test_a_state_that_production_refuses_is_not_recommended() -> None:
    """What the engine takes by itself is an alternative, with what it gains."""
    asked = deployment_of(GRANITE, "h100", tensor_parallel_size=2)
    advice = recommend(asked, ASSUMED)
    assert advice.values["mamba_ssm_cache_dtype"] == advice.plan.layout.mamba_ssm_cache_dtype == "float32"
    assert "takes bfloat16 by itself" in advice.flags[0].reason
    assert follow(asked, advice).cache == advice.plan.cache
    own = next(option for option in advice.alternatives if option.name == "mamba_ssm_cache_dtype")
    assert own.value == "bfloat16"
    assert "`hybridserve check` refuses it in production" in own.price
    assert own.gain.startswith(f"{steady_of(asked, 'bfloat16')} instead of {steady_of(asked, 'float32')} requests")
    given = recommend(deployment_of(GRANITE, "h100", tensor_parallel_size=2, mamba_ssm_cache_dtype="float32"), ASSUMED)
    assert given.values == advice.values
    assert not any(option.name == "mamba_ssm_cache_dtype" for option in given.alternatives)


def steady_of(asked: Deployment, dtype: str) -> int:
    """Sequences that fit with a type of the state, in the plan that is recommended for the other one."""
    plan = recommend(asked, ASSUMED).plan.deployment
    low = plan_deployment(replace(plan, cache=replace(plan.cache, mamba_ssm_cache_dtype=dtype))).low
    assert low is not None
    return low.n_steady(ASSUMED.p95)


def test_a_state_whose_type_no_setting_changes_keeps_it() -> None:
    advice = recommend(deployment_of(resolve_model("lfm2-8b-a1b").config, "h100"), ASSUMED)
    assert advice.values["mamba_ssm_cache_dtype"] == advice.plan.layout.mamba_ssm_cache_dtype == "bfloat16"


def test_a_refusal_offers_the_smaller_state_with_which_it_starts() -> None:
    """Between the memory that the engine's own type of the state needs, and that of float32."""
    config = resolve_model("granite-4.0-h-tiny").config
    asked = replace(deployment_of(config, "l40s"), total_bytes=round(15.8 * GIB))
    with pytest.raises(PlanRefused, match="mamba_ssm_cache_dtype=bfloat16, which `hybridserve check` refuses"):
        recommend(asked, ASSUMED)
    recommend(replace(asked, cache=replace(asked.cache, mamba_ssm_cache_dtype="bfloat16")), ASSUMED)


@pytest.mark.parametrize(
    ("config", "gpu", "offered"),
    [
        (NANO_9B, "b200", True),
        (NANO_9B, "rtx-pro-6000", False),  # 12.0 has no such instruction
        (NANO_9B, "h100", False),
        (resolve_model("qwen3.5-27b").config, "b200", False),  # no such rounding in a gated delta net
    ],
)
def test_stochastic_rounding_is_offered_where_the_engine_has_it(config, gpu, offered) -> None:
    options = recommend(deployment_of(config, gpu), ASSUMED).alternatives
    assert any(option.value == "float16" for option in options) is offered


@pytest.mark.parametrize(
    ("tokens", "gain"),
    [
        (2 * 1312 + 5, "2 whole blocks of 1,312 tokens in a step, beside one token per sequence"),
        (1312 + 105, "1 whole block of 1,312 tokens in a step, beside one token per sequence; "
        "the other 100 tokens make none"),
        (100, "no whole block of 1,312 tokens in a step"),
    ],
)  # fmt: skip
def test_given_tokens_of_a_step_are_not_called_a_default(tokens: int, gain: str) -> None:
    asked = replace(deployment_of(NANO_9B, "l40s", max_num_seqs=5), max_num_batched_tokens=tokens)
    flag = next(flag for flag in recommend(asked, ASSUMED).flags if flag.name == "max_num_batched_tokens")
    assert (flag.reason, flag.gain) == ("set by you", gain)
