"""Invariants of cache plans: monotonic in memory, scaling with sharding, refusals with a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from hybridserve.catalog.models import resolve_model
from hybridserve.errors import PlanRefused
from hybridserve.planning.cache.layout import compute_layout, plan_cache
from hybridserve.planning.cache.types import CachePlan, CacheRequest
from hybridserve.planning.models import Architecture, read_architecture

MODELS = {
    name: read_architecture(resolve_model(name).config)
    for name in (
        "nemotron-nano-9b-v2",
        "nemotron-nano-12b-v2",
        "nemotron-3-nano-30b-a3b",
        "granite-4.0-h-tiny",
        "falcon-h1-0.5b-instruct",
        "qwen3-8b",
    )
}
GIB = 1 << 30

SETTINGS = {
    "engine": st.sampled_from(("0.29.0", "0.32.0")),
    "platform": st.sampled_from(("cuda", "cpu")),
    "kv_cache_dtype": st.sampled_from(("auto", "fp8")),
    "mamba_ssm_cache_dtype": st.sampled_from(("auto", "float32", "float16")),
    "tensor_parallel_size": st.sampled_from((1, 2, 4)),
    "pipeline_parallel_size": st.sampled_from((1, 2)),
    "block_size": st.none() | st.sampled_from((16, 64, 2048)),
    "enable_prefix_caching": st.booleans(),
    "mamba_cache_mode": st.none() | st.sampled_from(("align", "none")),
    "num_speculative_tokens": st.sampled_from((0, 0, 3)),
}
models = st.sampled_from(sorted(MODELS)).map(MODELS.__getitem__)
# Anything a user may type, much of which is refused.
requests = st.builds(
    CacheRequest,
    **SETTINGS,
    kv_bytes=st.integers(0, 200 * GIB),
    max_model_len=st.none() | st.integers(-1, 200_000),
    max_num_seqs=st.none() | st.integers(0, 2000),
    prefix_match_unit=st.none() | st.sampled_from((0, 16, 48)),
)
# What mostly starts.
startable = st.builds(
    CacheRequest,
    **SETTINGS,
    kv_bytes=st.integers(20 * GIB, 200 * GIB),
    max_model_len=st.none() | st.just(-1) | st.integers(1, 16384),
    max_num_seqs=st.none() | st.integers(1, 50),
)


def planned(arch: Architecture, request: CacheRequest) -> CachePlan:
    try:
        return plan_cache(arch, request)
    except PlanRefused:
        reject()


@given(models, startable)
@settings(deadline=None)
def test_blocks_use_the_pool_up_to_one_block(arch, request_):
    plan = planned(arch, request_)
    used = plan.num_blocks * plan.layout.bytes_per_block
    assert used <= request_.kv_bytes < used + plan.layout.bytes_per_block


@given(models, startable)
@settings(deadline=None)
def test_one_request_fits_beside_the_null_block(arch, request_):
    plan = planned(arch, request_)
    assert plan.blocks_per_sequence <= plan.num_blocks - 1
    assert plan.concurrency >= 1
    assert 1 <= plan.max_model_len <= plan.longest_context <= arch.max_position_embeddings
    assert plan.n_safe(plan.max_model_len) >= 1


@given(models, startable, st.integers(0, 20 * GIB))
@settings(deadline=None)
def test_capacity_is_monotonic_in_memory(arch, request_, extra):
    fixed = replace(request_, max_model_len=request_.max_model_len if request_.max_model_len != -1 else None)
    less = planned(arch, fixed)
    more = plan_cache(arch, replace(fixed, kv_bytes=fixed.kv_bytes + extra))
    assert more.num_blocks >= less.num_blocks
    assert more.tokens >= less.tokens
    assert more.longest_context >= less.longest_context
    for length in (100, 8192):
        assert more.n_safe(length) >= less.n_safe(length)
        assert more.n_steady(length) >= less.n_steady(length)


@given(models, startable, st.integers(1, 100_000))
@settings(deadline=None)
def test_n_steady_is_at_least_n_safe_and_both_fall_with_length(arch, request_, length):
    plan = planned(arch, request_)
    assert plan.n_steady(length) >= plan.n_safe(length)
    assert plan.n_safe(length + 1000) <= plan.n_safe(length)


@given(models, startable)
@settings(deadline=None)
def test_longest_context_is_exact_to_the_token(arch, request_):
    plan = planned(arch, replace(request_, enable_prefix_caching=True))
    at_most = replace(request_, enable_prefix_caching=True, max_model_len=plan.longest_context)
    assert plan_cache(arch, at_most).max_model_len == plan.longest_context
    with pytest.raises(PlanRefused):
        plan_cache(arch, replace(at_most, max_model_len=plan.longest_context + 1))


@given(models, st.sampled_from((1, 2, 4)), st.sampled_from(("0.29.0", "0.32.0")))
@settings(deadline=None)
def test_tensor_parallel_capacity(arch, tp, engine):
    """As long as heads and groups divide, a page of a rank is its share of the whole page."""
    assume(arch.state is None or getattr(arch.state, "groups", 1) % (2 * tp) == 0)
    assume(arch.attention.kv_heads % (2 * tp) == 0)
    one = compute_layout(arch, CacheRequest(engine=engine, kv_bytes=0, tensor_parallel_size=tp))
    two = compute_layout(arch, CacheRequest(engine=engine, kv_bytes=0, tensor_parallel_size=2 * tp))
    assert two.block_size == one.block_size
    assert two.page_bytes * 2 == one.page_bytes
    assert two.state_bytes * 2 == one.state_bytes
    assert two.groups == one.groups


@given(models, startable)
@settings(deadline=None)
def test_pages_cover_the_state_and_groups_all_layers(arch, request_):
    try:
        layout = compute_layout(arch, request_)
    except PlanRefused:
        assume(False)
    assert layout.page_bytes >= layout.state_bytes
    # A state that fitted its page exactly before it grew by speculative tokens sets the page itself.
    grown = arch.hybrid and request_.num_speculative_tokens and layout.padding_percent == 0
    assert layout.page_bytes == (layout.state_bytes if grown else layout.block_size * layout.token_bytes)
    for kind, layers in (("attention", arch.attention_layers), ("state", arch.state_layers)):
        assert sum(group.layers for group in layout.groups if group.kind == kind) == layers
    assert all(group.layers * layout.page_bytes <= sum(layout.stage_block_bytes) for group in layout.groups)


@given(models, requests)
@settings(deadline=None, max_examples=500)
def test_request_is_planned_or_refused_with_a_field(arch, request_):
    """No other exception, no empty plan: a refusal names a setting, a reason and a way out."""
    try:
        plan = plan_cache(arch, request_)
    except PlanRefused as error:
        refusal = error
    else:
        assert plan.num_blocks > 1
        return
    assert refusal.where.startswith(("engine.", "model."))
    assert refusal.what
    assert refusal.fix
