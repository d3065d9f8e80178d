"""Readers of config.json: old and new field names, and errors."""

from __future__ import annotations

import re

import pytest

from hybridserve.catalog.models import resolve_model
from hybridserve.errors import CatalogError, PlanRefused
from hybridserve.planning.cache.layout import compute_layout
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.memory.weights import count_active_parameters, count_parameters, count_weights
from hybridserve.planning.models import GatedDeltaNet, Mamba1, Mamba2, ShortConv, read_architecture

NANO = resolve_model("nemotron-nano-9b-v2").config
GRANITE = resolve_model("granite-4.0-h-tiny").config
FALCON = resolve_model("falcon-h1-0.5b-instruct").config
QWEN = resolve_model("qwen3-8b").config
WORDS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
NEW_WORDS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}


@pytest.mark.parametrize("words", [WORDS, NEW_WORDS])
def test_nemotron_old_and_new_field_names_are_equivalent(words):
    new = {
        key: value for key, value in NANO.items() if key not in ("hybrid_override_pattern", "n_groups", "torch_dtype")
    }
    new |= {
        "layers_block_type": [words[letter] for letter in NANO["hybrid_override_pattern"]],
        "mamba_n_groups": new.pop("n_groups", 8),
        "mamba_d_conv": new.pop("conv_kernel"),
        "mamba_chunk_size": new.pop("chunk_size"),
        "dtype": "bfloat16",
    }
    assert read_architecture(new) == read_architecture(NANO)


def test_nano_9b():
    arch = read_architecture(NANO)
    assert (arch.attention_layers, arch.state_layers, len(arch.layers)) == (4, 27, 56)
    assert arch.state == Mamba2(heads=128, head_dim=80, groups=8, state=128, conv_kernel=4, chunk=128)
    assert arch.ssm_dtype == "float32"
    assert read_architecture(NANO | {"mamba_ssm_cache_dtype": "float16"}).ssm_dtype == "float16"


def test_experts_of_nemotron_3():
    arch = read_architecture(resolve_model("nemotron-3-super-120b-a12b").config)
    assert (arch.attention_layers, arch.state_layers, len(arch.layers)) == (8, 40, 88)
    assert arch.moe is not None
    assert (arch.moe.experts, arch.moe.latent, arch.moe.shared_intermediate) == (512, 1024, 5376)


def test_granite_and_falcon():
    granite, falcon = read_architecture(GRANITE), read_architecture(FALCON)
    assert (granite.attention_layers, granite.state_layers) == (4, 36)
    assert granite.ssm_dtype is None
    assert (falcon.attention_layers, falcon.state_layers) == (36, 36)
    assert isinstance(falcon.state, Mamba2)
    assert not falcon.state.gated_norm


def test_granite_without_mamba_is_a_plain_transformer():
    arch = read_architecture(GRANITE | {"layer_types": ["attention"] * 40})
    assert not arch.hybrid
    assert arch.attention_layers == 40


def test_qwen3_next_and_jamba():
    linear = {f"linear_{key}": 128 for key in ("key_head_dim", "value_head_dim")}
    heads = {"linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_conv_kernel_dim": 4, "num_experts": 0}
    arch = read_architecture(QWEN | linear | heads | {"architectures": ["Qwen3NextForCausalLM"]})
    assert isinstance(arch.state, GatedDeltaNet)
    assert (arch.attention_layers, arch.state_layers) == (9, 27)
    periods = {"attn_layer_period": 8, "attn_layer_offset": 4, "expert_layer_period": 2, "expert_layer_offset": 1}
    mamba = {"mamba_expand": 2, "mamba_d_state": 16, "mamba_d_conv": 4, "num_experts": 16, "num_experts_per_tok": 2}
    arch = read_architecture(QWEN | periods | mamba | {"architectures": ["JambaForCausalLM"], "num_hidden_layers": 32})
    assert isinstance(arch.state, Mamba1)
    assert (arch.attention_layers, arch.state_layers) == (4, 28)
    assert sum(layer.moe for layer in arch.layers) == 16


QWEN35_TEXT = {
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "num_hidden_layers": 64,
    "num_attention_heads": 24,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 48,
    "mamba_ssm_dtype": "float32",
    "max_position_embeddings": 262144,
    "vocab_size": 248320,
    "dtype": "bfloat16",
}
QWEN35 = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "text_config": QWEN35_TEXT,
    "vision_config": {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_position_embeddings": 2304,
        "out_hidden_size": 5120,
        "patch_size": 16,
    },
}
LFM2 = {
    "architectures": ["Lfm2ForCausalLM"],
    "layer_types": ["conv", "conv", "full_attention"],
    "num_hidden_layers": 3,
    "hidden_size": 2048,
    "block_ff_dim": 12288,
    "conv_dim": 2048,
    "conv_L_cache": 3,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 65536,
    "max_position_embeddings": 128000,
    "dtype": "bfloat16",
}


# Shapes of moonshotai/Kimi-Linear-48B-A3B and of tiiuae/falcon-mamba-7b.
KIMI = {
    "architectures": ["KimiLinearForCausalLM"],
    "num_hidden_layers": 27,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "vocab_size": 163840,
    "num_attention_heads": 32,
    "num_experts": 256,
    "num_experts_per_token": 8,
    "num_shared_experts": 1,
    "moe_intermediate_size": 1024,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "mla_use_nope": True,
    "linear_attn_config": {
        "kda_layers": [index for index in range(1, 28) if index % 4 and index != 27],
        "head_dim": 128,
        "num_heads": 32,
        "short_conv_kernel_size": 4,
    },
    "model_max_length": 1048576,
    "dtype": "bfloat16",
}
FALCON_MAMBA = {
    "architectures": ["FalconMambaForCausalLM"],
    "num_hidden_layers": 64,
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "vocab_size": 65024,
    "state_size": 16,
    "conv_kernel": 4,
    "time_step_rank": 256,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


def test_kimi_linear_has_the_published_sizes():
    arch = read_architecture(KIMI)
    assert (arch.attention_layers, arch.state_layers, arch.max_position_embeddings) == (7, 20, 1048576)
    assert count_parameters(arch) == pytest.approx(49e9, rel=0.01)
    assert count_active_parameters(arch) == pytest.approx(3e9, rel=0.05)
    # Keys and values of a token are one vector of 576 numbers, on every rank.
    for tp in (1, 8):
        assert compute_layout(arch, CacheRequest(kv_bytes=0, tensor_parallel_size=tp)).token_bytes == 1152


def test_a_model_without_attention():
    arch = read_architecture(FALCON_MAMBA)
    assert count_parameters(arch) == 7_272_665_088
    layout = compute_layout(arch, CacheRequest(kv_bytes=0, enable_prefix_caching=False))
    assert (layout.mode, layout.block_size, layout.token_bytes) == ("none", 2048, 0)
    assert layout.page_bytes == layout.state_bytes
    with pytest.raises(PlanRefused, match="positive integer"):
        compute_layout(arch, CacheRequest(kv_bytes=0, enable_prefix_caching=False, max_model_len=-1))


def test_qwen3_5_weights_are_near_a_public_log():
    arch = read_architecture(QWEN35)
    assert (arch.attention_layers, arch.state_layers, arch.ssm_dtype) == (16, 48, "float32")
    weights = count_weights(arch)
    # 51.1 GiB in a start-up log of Qwen3.8-27B, which has the same shapes.
    assert weights.bytes / 2**30 == pytest.approx(51.1, rel=0.01)
    assert weights.band == 0
    # Without the encoder's shapes only the language model is counted, and that is stated.
    part = read_architecture(QWEN35 | {"vision_config": {"depth": 27}})
    assert part.uncounted != arch.uncounted
    assert count_parameters(part) < count_parameters(arch)
    text = read_architecture(QWEN35_TEXT | {"architectures": ["Qwen3_5ForCausalLM"]})
    assert count_parameters(text) == count_parameters(part)
    assert not text.uncounted


def test_wrapper_passes_quantization_and_tied_embeddings_to_the_language_model():
    scheme = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    arch = read_architecture(QWEN35 | {"quantization_config": scheme, "tie_word_embeddings": True})
    assert arch.kv_cache_dtype == "fp8"
    assert arch.tied_embeddings


def test_lfm2_mlp_width_is_derived_as_in_vllm():
    arch = read_architecture(LFM2)
    assert arch.state == ShortConv(width=2048, conv_kernel=3)
    assert arch.mlp is not None
    assert arch.mlp.intermediate == 8192
    assert arch.tied_embeddings
    old = {key: value for key, value in LFM2.items() if key != "layer_types"} | {"full_attn_idxs": [2]}
    assert read_architecture(old) == arch


@pytest.mark.parametrize(
    ("name", "state", "drafts"),
    [
        ("NemotronH_Nano_VL_V2", "float32", False),
        ("NemotronH_Nano_Omni_Reasoning_V3", None, False),
        ("NemotronH_Super_Omni_Reasoning_V3", None, True),
        ("NemotronH_Omni_Reasoning_V3", None, True),
    ],
)
@pytest.mark.parametrize("key", ["llm_config", "text_config"])
def test_language_model_of_a_nemotron_with_encoders(name, state, drafts, key):
    mtp = {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*"}
    language = read_architecture(NANO | mtp)
    arch = read_architecture({"architectures": [name], key: NANO | mtp})
    assert arch.uncounted
    assert (arch.weights_counted, arch.pipeline, arch.ssm_dtype) == (False, False, state)
    assert arch.mtp == (language.mtp if drafts else ())
    assert (arch.layers, arch.state, arch.attention) == (language.layers, language.state, language.attention)
    scheme = {"quantization_config": {"quant_method": "fp8"}}
    for config in ({key: NANO | scheme}, {key: NANO} | scheme):
        assert read_architecture({"architectures": [name]} | config).precision.name == "fp8"


@pytest.mark.parametrize(
    "field", [field for field in NANO if field not in ("tie_word_embeddings", "num_hidden_layers")]
)
def test_missing_nemotron_field_is_named(field):
    config = {key: value for key, value in NANO.items() if key != field}
    optional = ("model_type", "expand", "chunk_size", "num_key_value_heads", "head_dim")
    if field in optional:
        read_architecture(config)
        return
    with pytest.raises(CatalogError) as caught:
        read_architecture(config)
    where = caught.value.where.removeprefix("config.json: ")
    assert where == {"torch_dtype": "dtype"}.get(field, field)
    assert caught.value.fix


WRONG = [
    (NANO | {"hybrid_override_pattern": "M-X*"}, "hybrid_override_pattern", "'X'"),
    (NANO | {"hybrid_override_pattern": "M-M-"}, "hybrid_override_pattern", "no attention layer"),
    (NANO | {"hybrid_override_pattern": "*-*-"}, "hybrid_override_pattern", "no Mamba layer"),
    (NANO | {"layers_block_type": ["mamba", "conv"]}, "layers_block_type", "'conv'"),
    (NANO | {"hidden_size": "big"}, "hidden_size", "'big'"),
    (NANO | {"hidden_size": True}, "hidden_size", "True"),
    (NANO | {"mamba_num_heads": 0}, "mamba_num_heads", "0"),
    (NANO | {"num_key_value_heads": 7}, "num_key_value_heads", "num_heads (40) is not divisible"),
    (NANO | {"sliding_window": 4096}, "sliding_window", "4096"),
    (NANO | {"block_configs": []}, "block_configs", "Puzzle"),
    (NANO | {"architectures": ["NemotronHPuzzleForCausalLM"]}, "architectures", "Puzzle"),
    (NANO | {"architectures": ["DeepseekV3ForCausalLM"]}, "architectures", "MLA"),
    (NANO | {"architectures": ["BambaForCausalLM"]}, "architectures", "until v0.23.0"),
    (NANO | {"architectures": ["KimiLinearForCausalLM"]}, "linear_attn_config", "missing"),
    (KIMI | {"mla_use_nope": False}, "mla_use_nope", "False"),
    (KIMI | {"kv_lora_rank": None}, "kv_lora_rank", "missing"),
    (KIMI | {"linear_attn_config": {"kda_layers": []}}, "linear_attn_config.kda_layers", "one kind of layer"),
    (FALCON_MAMBA | {"architectures": ["Mamba2ForCausalLM"]}, "num_heads", "missing"),
    (NANO | {"architectures": ["OPTForCausalLM"]}, "architectures", "not supported"),
    (NANO | {"torch_dtype": "int8"}, "dtype", "int8"),
    (QWEN | {"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, "sliding_window", "4096"),
    (QWEN | {"rope_scaling": "longrope"}, "rope_scaling", "longrope"),
    (QWEN | {"rope_parameters": {"rope_type": "linear", "factor": "2"}}, "rope_parameters.factor", "'2'"),
    (QWEN | {"rope_parameters": {"rope_type": "dynamic", "factor": 0}}, "rope_parameters.factor", "0"),
    (
        QWEN | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        "rope_scaling.original_max_position_embeddings",
        "missing",
    ),
    (GRANITE | {"mamba_n_heads": 47}, "mamba_d_head", "64"),
    (GRANITE | {"num_hidden_layers": 41}, "num_hidden_layers", "layer_types"),
    (QWEN35 | {"text_config": None}, "text_config", "None"),
    (QWEN35 | {"text_config": QWEN35_TEXT | {"mamba_ssm_dtype": "int8"}}, "mamba_ssm_dtype", "int8"),
    (LFM2 | {"layer_types": ["conv"] * 3}, "layer_types", "one kind of layer"),
    (LFM2 | {"conv_dim": None}, "conv_dim", "missing"),
    ({}, "architectures", "missing"),
]


@pytest.mark.parametrize(("config", "field", "word"), WRONG, ids=lambda value: str(value)[:40])
def test_invalid_or_unsupported_config_is_refused(config, field, word):
    with pytest.raises(CatalogError) as caught:
        read_architecture(config)
    assert caught.value.where == f"config.json: {field}"
    assert word in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize(
    ("rope", "longest", "scaled", "default"),
    [
        ({}, 40960, None, None),
        ({"rope_type": "default", "rope_theta": 1e6}, 40960, None, None),
        ({"type": "linear", "factor": 2.0}, 81920, None, None),
        ({"rope_type": "dynamic", "factor": 1.5}, 61440, None, None),
        ({"rope_type": "linear", "factor": None}, 40960, None, None),
        ({"rope_type": "llama3", "factor": 8.0}, 40960, None, None),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 40960, 131072, None),
        ({"rope_type": "longrope", "short_factor": [1.0]}, 40960, None, 4096),
        ({"rope_type": "su", "short_factor": [1.0]}, 40960, None, None),
        ({"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {}}, 327680, None, None),
    ],
)
def test_context_follows_rope_scaling_as_in_vllm(rope, longest, scaled, default):
    arch = read_architecture(QWEN | {"rope_parameters": rope, "original_max_position_embeddings": 4096})
    assert (arch.max_position_embeddings, arch.yarn_context, arch.default_context) == (longest, scaled, default)


def test_context_of_longrope_is_the_original_unless_it_is_set():
    config = QWEN | {"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": 4096}
    arch = read_architecture(config)
    asked = [CacheRequest(kv_bytes=0, max_model_len=length) for length in (None, 9999)]
    assert [compute_layout(arch, request).max_model_len for request in asked] == [4096, 9999]


GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "num_hidden_layers": 5,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "sliding_window": 128,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
GEMMA = GPT_OSS | {"architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 12}


def test_gpt_oss_has_a_window_in_every_other_layer():
    arch = read_architecture(GPT_OSS)
    assert [layer.window for layer in arch.layers] == [True, False, True, False, True]
    assert (arch.window, arch.attention_layers, arch.tied_embeddings) == (128, 2, False)
    assert read_architecture({name: GPT_OSS[name] for name in GPT_OSS if name != "torch_dtype"}) == arch


def test_parameters_of_gpt_oss_120b_are_those_published():
    """116.83 billion, by the model card."""
    shape = {"num_hidden_layers": 36, "hidden_size": 2880, "intermediate_size": 2880, "num_local_experts": 128}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088}
    assert count_parameters(read_architecture(GPT_OSS | shape | heads)) / 1e9 == pytest.approx(116.83, abs=0.005)


def test_gemma_3_states_its_context_with_its_scaling():
    scaled = GEMMA | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    assert read_architecture(scaled).max_position_embeddings == 4096
    assert read_architecture(scaled | {"architectures": ["Gemma2ForCausalLM"]}).max_position_embeddings == 32768


@pytest.mark.parametrize("change", [{}, {"layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2}])
def test_gemma_3_has_full_attention_in_every_sixth_layer(change):
    arch = read_architecture(GEMMA | change)
    assert [index for index, layer in enumerate(arch.layers) if not layer.window] == [5, 11]
    assert arch.tied_embeddings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer_types": ["sliding_attention"] * 12}, "sliding windows only"),
        ({"layer_types": ["full_attention"]}, "differs from the length"),
        ({"layer_types": ["chunked_attention"] * 12}, "contains 'chunked_attention'"),
    ],
)
def test_gemma_3_layers_that_cannot_be_read(change, says):
    with pytest.raises(CatalogError, match=says):
        read_architecture(GEMMA | change)


MOE = GPT_OSS | {"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4, "moe_intermediate_size": 64}


@pytest.mark.parametrize(
    ("config", "change", "says"),
    [
        (MOE, {"num_experts_per_tok": 5}, "num_experts_per_tok: is 5, of 4 experts"),
        (MOE, {"num_experts": None, "num_local_experts": None}, "num_experts: is missing"),
        (MOE, {"head_dim": None}, "head_dim: is missing"),
        (MOE, {"rope_scaling": {"rope_type": "linear", "factor": float("inf")}}, "factor: is inf"),
        (MOE, {"rope_scaling": {"rope_type": "linear", "factor": float("nan")}}, "factor: is nan"),
        (resolve_model("nemotron-3-super-120b-a12b").config, {"moe_latent_size": "x"}, "moe_latent_size: is 'x'"),
        (resolve_model("nemotron-3-super-120b-a12b").config, {"moe_latent_size": -1}, "moe_latent_size: is -1"),
    ],
)
def test_field_that_contradicts_another_is_named(config, change, says):
    assert read_architecture({**config, "sliding_window": None})
    with pytest.raises(CatalogError, match=re.escape(says)):
        read_architecture({**config, "sliding_window": None, **change})
