"""Gemma 4: caches shared between layers, per-layer inputs, and the two spellings of its heads."""

from __future__ import annotations

import pytest

from hybridserve.errors import CatalogError, PlanRefused
from hybridserve.planning.cache.layout import compute_layout
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.memory.lora import LoraSlots, lora_bytes
from hybridserve.planning.memory.weights import count_active_parameters, count_parameters, count_weights
from hybridserve.planning.models import read_architecture

SLIDING, FULL = "sliding_attention", "full_attention"
# The text models of E2B and E4B, by their config.json.
SMALL = {
    "architectures": ["Gemma4ForCausalLM"],
    "dtype": "bfloat16",
    "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
    "num_attention_heads": 8,
    "head_dim": 256,
    "global_head_dim": 512,
    "sliding_window": 512,
    "max_position_embeddings": 131072,
}
E2B = SMALL | {
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_hidden_layers": 35,
    "num_key_value_heads": 1,
    "num_kv_shared_layers": 20,
    "use_double_wide_mlp": True,
    "layer_types": ([SLIDING] * 4 + [FULL]) * 7,
}
E4B = SMALL | {
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 42,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 18,
    "layer_types": ([SLIDING] * 5 + [FULL]) * 7,
}
PLAIN = SMALL | {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 12, "num_key_value_heads": 4}


@pytest.mark.parametrize(
    ("config", "whole", "of_two_ranks"),
    [(E2B, 4_647_449_856, 2_354_148_608), (E4B, 7_518_068_992, 3_786_842_368)],
    ids=["E2B", "E4B"],
)
def test_weights_are_those_of_vllms_class(config, whole, of_two_ranks):
    """Parameters of the class that vLLM 0.29.0 builds, on one rank and on one of two."""
    arch = read_architecture(config)
    assert count_parameters(arch) == whole
    assert count_weights(arch, tensor_parallel_size=2).bytes == 2 * of_two_ranks


def test_active_parameters_leave_out_the_tables_of_per_layer_inputs():
    """The model card has 2.3 billion effective parameters."""
    assert count_active_parameters(read_architecture(E2B)) == pytest.approx(2.3e9, rel=0.01)


def test_only_layers_with_a_cache_of_their_own_are_in_a_block():
    arch = read_architecture(E2B)
    layout = compute_layout(arch, CacheRequest(kv_bytes=0))
    assert (arch.attention_layers, layout.attention_layers) == (3, 3)
    assert [(group.kind, group.layers, group.block_tokens) for group in layout.groups] == [
        *[("window", 3, 32)] * 4,
        ("attention", 3, 16),
    ]


def test_a_stage_cannot_share_the_cache_of_another_stage():
    assert compute_layout(read_architecture(E4B), CacheRequest(kv_bytes=0, pipeline_parallel_size=2)).groups
    with pytest.raises(PlanRefused, match="KV sharing target layer for layer 18 is not valid: target layer 13"):
        compute_layout(read_architecture(E2B), CacheRequest(kv_bytes=0, pipeline_parallel_size=2))


def test_mlps_of_layers_that_share_a_cache_are_twice_as_wide():
    narrow, wide = (read_architecture(E2B | {"use_double_wide_mlp": value}) for value in (False, True))
    assert count_parameters(wide) - count_parameters(narrow) == 20 * 3 * 1536 * 6144
    slots = LoraSlots(count=1, rank=8)
    assert lora_bytes(wide, slots, "auto", 1) - lora_bytes(narrow, slots, "auto", 1) == 20 * 3 * 6144 * 8 * 2


def test_heads_as_transformers_saves_them_give_the_same_model():
    flat = PLAIN | {"attention_k_eq_v": True, "num_global_key_value_heads": 2}
    saved = {
        name: value for name, value in flat.items() if name not in ("global_head_dim", "num_global_key_value_heads")
    }
    saved["per_layer_config"] = {index: {"head_dim": 512, "num_key_value_heads": 2} for index in ("5", "11")}
    assert read_architecture(saved) == read_architecture(flat)
    # The wrapper with image and audio encoders states the model in a part.
    wrapper = {"architectures": ["Gemma4ForConditionalGeneration"], "text_config": saved}
    assert read_architecture(wrapper).layers == read_architecture(flat).layers


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"num_kv_shared_layers": 7}, "num_kv_shared_layers", "is 7: no full_attention layer"),
        ({"num_kv_shared_layers": 12}, "num_kv_shared_layers", "is 12: no"),
        ({"num_kv_shared_layers": 13}, "num_kv_shared_layers", "is 13: no"),
        ({"per_layer_config": {"5": {"head_dim": 64}}}, "per_layer_config", "differs among layers"),
        ({"per_layer_config": {"4": {"head_dim": 64}}}, "per_layer_config", "differs among layers"),
        ({"per_layer_config": {"5": {"rope_theta": 1.0}}}, "per_layer_config", "for layer 5"),
        ({"per_layer_config": []}, "per_layer_config", "for layer 0"),
        ({"hidden_size_per_layer_input": -1}, "hidden_size_per_layer_input", "is -1"),
    ],
    ids=str,
)
def test_layers_that_cannot_be_read(change, field, says):
    with pytest.raises(CatalogError, match=says) as caught:
        read_architecture(PLAIN | change)
    assert caught.value.where == f"config.json: {field}"
