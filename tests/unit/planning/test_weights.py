"""Weights: published parameter counts and sizes, and invariants of sharding."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.planning.memory.weights import RECIPE_BAND, count_active_parameters, count_parameters, count_weights
from hybridserve.planning.models import Mamba2, Moe, read_architecture
from hybridserve.planning.models.quantization import vendor_recipe
from support.planned_models import NANO_4B, NANO_9B, QWEN3_8B


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(NANO_9B, 8_888_227_328), (NANO_4B, 3_973_556_832), (QWEN3_8B, 8_190_735_360)],
    ids=["nemotron-nano-9b-v2", "nemotron-3-nano-4b", "qwen3-8b"],
)
def test_parameters_match_published_counts(config, parameters):
    assert count_parameters(read_architecture(config)) == parameters


def test_bytes_follow_the_type(nano):
    half, full = count_weights(nano), count_weights(nano, dtype="float32")
    # The state's A is float32 in either case: one number a head and layer.
    kept = 27 * 128
    assert half.bytes == 2 * half.parameters + 2 * kept
    assert full.bytes == 4 * full.parameters
    assert half.band == 0


@pytest.mark.parametrize(("quantization", "gigabytes"), [("fp8", 10.29), ("nvfp4", 7.0)])
def test_quantized_sizes_are_close_to_published_sizes(nano, quantization, gigabytes):
    weights = count_weights(nano, precision=vendor_recipe(quantization, hybrid=True))
    assert weights.bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)
    assert weights.band == round(RECIPE_BAND * weights.bytes)
    assert "not known" in weights.how


def test_published_size_is_split_over_ranks(nano):
    published = 10_290_000_000
    fp8 = vendor_recipe("fp8", hybrid=True)
    whole = count_weights(nano, precision=fp8, published_bytes=published)
    half = count_weights(nano, precision=fp8, published_bytes=published, tensor_parallel_size=2)
    assert whole.bytes == published
    assert whole.band == 0
    hearsay = count_weights(nano, precision=fp8, published_bytes=published, confirmed=False)
    assert (hearsay.bytes, hearsay.how) == (published, "reported size, not confirmed")
    assert hearsay.band == round(RECIPE_BAND * published)
    assert published / 2 <= half.bytes < published * 0.51


@pytest.mark.parametrize("size", [2, 4, 8])
def test_tensor_parallel_ranks_have_all_weights(nano, qwen, size):
    for arch in (nano, qwen):
        whole, rank = count_weights(arch), count_weights(arch, tensor_parallel_size=size)
        assert whole.bytes <= size * rank.bytes < whole.bytes * 1.001


def test_pipeline_stages_have_all_weights(nano):
    # Embedding on the first stage, head on the last: the fullest stage is at least an equal share.
    whole, stage = count_weights(nano), count_weights(nano, pipeline_parallel_size=2)
    assert whole.bytes / 2 <= stage.bytes < whole.bytes


def test_tied_embeddings_are_duplicated_only_in_a_pipeline(qwen):
    tied = replace(qwen, tied_embeddings=True)
    table = qwen.vocab * qwen.hidden
    assert count_parameters(qwen) - count_parameters(tied) == table
    one = count_weights(tied, pipeline_parallel_size=36).bytes
    assert one == count_weights(qwen, pipeline_parallel_size=36).bytes


def test_active_parameters_include_only_routed_experts(qwen):
    moe = Moe(experts=128, experts_per_token=6, intermediate=1856, matrices=2, shared_intermediate=3712)
    mixed = replace(qwen, mlp=None, moe=moe, layers=tuple(replace(layer, mlp=False, moe=True) for layer in qwen.layers))
    expert = 2 * qwen.hidden * 1856
    skipped = len(qwen.layers) * (128 - 6) * expert
    lookup = qwen.vocab * qwen.hidden
    assert count_parameters(mixed) - count_active_parameters(mixed) == skipped + lookup


@given(heads=st.sampled_from([8, 16, 64, 128]), size=st.sampled_from([1, 2, 4, 8]))
def test_single_group_is_replicated(heads, size):
    arch = read_architecture({**NANO_9B, "n_groups": 1, "mamba_num_heads": heads})
    assert isinstance(arch.state, Mamba2)
    rank = count_weights(arch, tensor_parallel_size=size).bytes
    copied = 2 * arch.state.state * (arch.hidden + arch.state.conv_kernel + 1) * 2 * arch.state_layers
    whole = count_weights(arch).bytes
    norms = 2 * (len(arch.layers) + 1) * arch.hidden
    assert size * rank == whole + (size - 1) * (copied + norms)
