"""Small models of each family, and some published ones, as config.json, for the differential suite."""

from __future__ import annotations

from typing import Any

NANO_9B_LAYERS = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
NANO_12B_LAYERS = "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-"
NANO_30B_LAYERS = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"


# An MTP module: attention and experts.
NEMOTRON_MTP = {
    "num_nextn_predict_layers": 1,
    "mtp_hybrid_override_pattern": "*E",
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 64,
}


def nemotron_h(layers: str = "M-M*", **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "hybrid_override_pattern": layers,
        "num_hidden_layers": len(layers),
        "hidden_size": 256,
        "intermediate_size": 512,
        "vocab_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "mamba_num_heads": 16,
        "mamba_head_dim": 32,
        "ssm_state_size": 64,
        "n_groups": 8,
        "conv_kernel": 4,
        "expand": 2,
        "chunk_size": 128,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    } | changes


def nemotron_nano(layers: str, **changes: Any) -> dict[str, Any]:
    return nemotron_h(
        layers,
        **{
            "hidden_size": 4480,
            "intermediate_size": 15680,
            "vocab_size": 131072,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "mamba_num_heads": 128,
            "mamba_head_dim": 80,
            "ssm_state_size": 128,
            "max_position_embeddings": 131072,
        }
        | changes,
    )


def new_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """The same Nemotron-H config with the field names of newer checkpoints."""
    words = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    renamed = {"n_groups": "mamba_n_groups", "conv_kernel": "mamba_d_conv", "chunk_size": "mamba_chunk_size"}
    config = {renamed.get(key, key): value for key, value in config.items()}
    pattern = config.pop("hybrid_override_pattern")
    return config | {"layers_block_type": [words[letter] for letter in pattern], "dtype": config.pop("torch_dtype")}


def nemotron_vision(name: str = "NemotronH_Nano_VL_V2", **changes: Any) -> dict[str, Any]:
    """A Nemotron-H with encoders, under one of the names of their class."""
    sizes = {"force_image_size": 512, "patch_size": 16, "downsample_ratio": 0.5, "ps_version": "v2"}
    encoder = {"template": "", "image_tag_type": "", "vit_hidden_size": 64, "projector_hidden_size": 64}
    wrapper = {"architectures": [name], "model_type": "NemotronH_Nano_VL_V2", "torch_dtype": "bfloat16"}
    return wrapper | sizes | encoder | {"llm_config": nemotron_h(**changes)}


def granite(layers: str = "MMM*", **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "model_type": "granitemoehybrid",
        "layer_types": ["mamba" if letter == "M" else "attention" for letter in layers],
        "num_hidden_layers": len(layers),
        "hidden_size": 256,
        "intermediate_size": 128,
        "shared_intermediate_size": 256,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "mamba_n_heads": 16,
        "mamba_d_head": 32,
        "mamba_d_state": 64,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 256,
        "max_position_embeddings": 4096,
        "position_embedding_type": "nope",
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": True,
    } | changes


def falcon_h1(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["FalconH1ForCausalLM"],
        "model_type": "falcon_h1",
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "intermediate_size": 512,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "mamba_d_ssm": 512,
        "mamba_n_heads": 16,
        "mamba_d_head": 32,
        "mamba_d_state": 128,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 128,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    } | changes


def qwen3_next(layers: int = 8, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "num_hidden_layers": layers,
        "full_attention_interval": 4,
        "hidden_size": 256,
        "intermediate_size": 512,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "linear_conv_kernel_dim": 4,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    } | changes


def qwen3_5(layers: int = 8, *, moe: bool = False, text: bool = False, **changes: Any) -> dict[str, Any]:
    """Qwen3.5 with its vision wrapper, or the language model alone."""
    name = "qwen3_5_moe" if moe else "qwen3_5"
    config = qwen3_next(layers, **{"model_type": f"{name}_text", "mamba_ssm_dtype": "float32"} | changes)
    config |= {"dtype": config.pop("torch_dtype"), "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    prefix = "Qwen3_5Moe" if moe else "Qwen3_5"
    if text:
        return config | {"architectures": [f"{prefix}ForCausalLM"]}
    del config["architectures"]
    config["rope_parameters"] |= {"mrope_interleaved": True, "mrope_section": [3, 3, 2], "partial_rotary_factor": 0.25}
    vision = {
        "model_type": f"{name}_vision",
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 256,
        "patch_size": 16,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [],
    }
    ids = {"image_token_id": 1000, "video_token_id": 1001, "vision_start_token_id": 1002, "vision_end_token_id": 1003}
    wrapper = {"architectures": [f"{prefix}ForConditionalGeneration"], "model_type": name}
    return wrapper | ids | {"text_config": config, "vision_config": vision}


def intern_s2(layers: int = 8) -> dict[str, Any]:
    """A Qwen3.5 with experts under another name."""
    own = {"architectures": ["InternS2PreviewForConditionalGeneration"], "model_type": "intern_s2_preview"}
    return qwen3_5(layers, moe=True) | own


def lfm2(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "num_hidden_layers": 6,
        "layer_types": ["conv", "conv", "full_attention", "conv", "conv", "full_attention"],
        "hidden_size": 256,
        "block_dim": 256,
        "conv_dim": 256,
        "block_ff_dim": 512,
        "intermediate_size": 512,
        "conv_L_cache": 3,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    } | changes


def lfm2_moe(**changes: Any) -> dict[str, Any]:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "num_dense_layers": 2}
    return lfm2(architectures=["Lfm2MoeForCausalLM"], model_type="lfm2_moe") | experts | changes


def lfm2_vl(text: dict[str, Any] | None = None) -> dict[str, Any]:
    text = text or lfm2()
    vision = {
        "model_type": "siglip2_vision_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_patches": 256,
        "patch_size": 16,
    }
    wrapper = {"architectures": ["Lfm2VlForConditionalGeneration"], "model_type": "lfm2_vl", "image_token_id": 1000}
    return wrapper | {"text_config": text, "vision_config": vision, "torch_dtype": "bfloat16"}


def minicpm_v(layers: int = 8, **changes: Any) -> dict[str, Any]:
    text = qwen3_5(layers, text=True, **changes)
    vision = {
        "model_type": "minicpmv4_6_vision",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "patch_size": 14,
        "image_size": 224,
        "insert_layer_id": 1,
    }
    wrapper = {"architectures": ["MiniCPMV4_6ForConditionalGeneration"], "model_type": "minicpmv4_6"}
    return wrapper | {"text_config": text, "vision_config": vision, "dtype": "bfloat16"}


def gpt_oss(layers: int = 6, **changes: Any) -> dict[str, Any]:
    yarn = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    yarn |= {"original_max_position_embeddings": 4096}
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "num_hidden_layers": layers,
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "vocab_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "sliding_window": 128,
        "max_position_embeddings": 16384,
        "rope_scaling": yarn,
        "torch_dtype": "bfloat16",
    } | changes


def gemma3(layers: int = 8, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "num_hidden_layers": layers,
        "layer_types": ["full_attention" if index % 6 == 5 else "sliding_attention" for index in range(layers)],
        "hidden_size": 256,
        "intermediate_size": 512,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "sliding_window": 512,
        "max_position_embeddings": 16384,
        "torch_dtype": "bfloat16",
    } | changes


def gemma3_vision(layers: int = 8) -> dict[str, Any]:
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 224,
        "patch_size": 14,
    }
    wrapper = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "torch_dtype": "bfloat16"}
    text = gemma3(layers, rope_scaling={"factor": 8.0, "rope_type": "linear"})
    return wrapper | {"text_config": text, "vision_config": vision}


def gemma2(layers: int = 6, **changes: Any) -> dict[str, Any]:
    own = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "query_pre_attn_scalar": 64}
    kinds = [("full_attention", "sliding_attention")[index % 2 == 0] for index in range(layers)]
    return gemma3(layers, layer_types=kinds) | own | changes


def gemma4(layers: int = 12, **changes: Any) -> dict[str, Any]:
    own = {
        "architectures": ["Gemma4ForCausalLM"],
        "model_type": "gemma4_text",
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
        "global_head_dim": 128,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        "hidden_activation": "gelu_pytorch_tanh",
    }
    return gemma3(layers) | own | changes


def gemma4_shared(shared: int = 8, **changes: Any) -> dict[str, Any]:
    """A Gemma 4 whose last layers share caches, with per-layer inputs, as E2B and E4B."""
    inputs = {"hidden_size_per_layer_input": 64, "vocab_size_per_layer_input": 1000}
    return gemma4(14, num_kv_shared_layers=shared, use_double_wide_mlp=True, **inputs) | changes


def gemma4_saved(layers: int = 12) -> dict[str, Any]:
    """The same heads as `gemma4`, as transformers 5.15 and later save them."""
    flat = ("num_global_key_value_heads", "global_head_dim")
    full = {"head_dim": 128, "num_key_value_heads": 2}
    config = {name: value for name, value in gemma4(layers).items() if name not in flat}
    return config | {"per_layer_config": {str(index): full for index in range(5, layers, 6)}}


def gemma4_vision(layers: int = 6, unified: bool = False) -> dict[str, Any]:
    vision = {"model_type": "gemma4_vision", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    wrapper = {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "dtype": "bfloat16"}
    text = gemma4(layers)
    if unified:
        vision = {"model_type": "gemma4_unified_vision", "mm_embed_dim": 64, "output_proj_dims": 64}
        wrapper |= {"architectures": ["Gemma4UnifiedForConditionalGeneration"], "model_type": "gemma4_unified"}
        text |= {"model_type": "gemma4_unified_text"}
        del text["hidden_size_per_layer_input"]
    return wrapper | {"text_config": text, "vision_config": vision, "audio_config": None}


def olmo_hybrid(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["OlmoHybridForCausalLM"],
        "model_type": "olmo_hybrid",
        "num_hidden_layers": 8,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2,
        "hidden_size": 512,
        "intermediate_size": 512,
        "vocab_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "linear_num_key_heads": 8,
        "linear_num_value_heads": 8,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 64,
        "linear_conv_kernel_dim": 4,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    } | changes


def zamba2(layers: str = "MMHMMH", **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Zamba2ForCausalLM"],
        "model_type": "zamba2",
        "num_hidden_layers": len(layers),
        "layers_block_type": ["hybrid" if letter == "H" else "mamba" for letter in layers],
        "hidden_size": 256,
        "intermediate_size": 512,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "mamba_d_state": 64,
        "mamba_expand": 2,
        "mamba_d_conv": 4,
        "mamba_ngroups": 1,
        "n_mamba_heads": 8,
        "chunk_size": 256,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    } | changes


def jamba(layers: int = 8, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["JambaForCausalLM"],
        "model_type": "jamba",
        "num_hidden_layers": layers,
        "hidden_size": 256,
        "intermediate_size": 512,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_dt_rank": 16,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    } | changes


def qwen3(layers: int = 4, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "num_hidden_layers": layers,
        "hidden_size": 256,
        "intermediate_size": 512,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 40960,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    } | changes


def qwen3_moe(**changes: Any) -> dict[str, Any]:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1}
    return qwen3() | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"} | experts | changes


def llama(layers: int = 4, **changes: Any) -> dict[str, Any]:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5}
    return qwen3(layers) | config | changes


def kimi_linear(layers: str = "KKKMKKM", *, gate: bool = False, **changes: Any) -> dict[str, Any]:
    """K is Kimi delta attention, M latent attention."""
    linear: dict[str, Any] = {
        "kda_layers": [index for index, letter in enumerate(layers, 1) if letter == "K"],
        "full_attn_layers": [index for index, letter in enumerate(layers, 1) if letter == "M"],
        "head_dim": 128,
        "num_heads": 8,
        "short_conv_kernel_size": 4,
    }
    if gate:
        linear |= {"use_full_rank_gate": True, "gate_lower_bound": -5.0}
    return {
        "architectures": ["KimiLinearForCausalLM"],
        "model_type": "kimi_linear",
        "num_hidden_layers": len(layers),
        "hidden_size": 512,
        "intermediate_size": 1024,
        "vocab_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "linear_attn_config": linear,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "mla_use_nope": True,
        "num_experts": 4,
        "num_experts_per_token": 2,
        "num_shared_experts": 1,
        "moe_intermediate_size": 256,
        "first_k_dense_replace": 1,
        "model_max_length": 16384,
        "torch_dtype": "bfloat16",
    } | changes


def kimi_k3(layers: str = "KKKMKKM", **changes: Any) -> dict[str, Any]:
    text = kimi_linear(layers, gate=True, mla_use_output_gate=True, attn_res_block_size=2, q_lora_rank=128, **changes)
    wrapper = {"architectures": ["KimiK3ForConditionalGeneration"], "model_type": "kimi_k3", "dtype": "bfloat16"}
    return wrapper | {"text_config": text, "vision_config": {"model_type": "kimi_k3_vision"}}


def ling(layers: int = 10, *, version: int = 3, **changes: Any) -> dict[str, Any]:
    """Ling 3 (Kimi delta attention) or 2.5 (lightning attention)."""
    own = {"short_conv_kernel_size": 4, "no_kda_lora": True} if version == 3 else {"group_norm_size": 4}
    return (
        {
            "architectures": ["BailingMoeV3ForCausalLM" if version == 3 else "BailingMoeV2_5ForCausalLM"],
            "model_type": "bailing_hybrid",
            "num_hidden_layers": layers,
            "layer_group_size": 4,
            "hidden_size": 512,
            "intermediate_size": 1024,
            "vocab_size": 1024,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "kv_lora_rank": 512,
            "q_lora_rank": None,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "num_shared_experts": 1,
            "moe_intermediate_size": 256,
            "moe_shared_expert_intermediate_size": 256,
            "moe_router_enable_expert_bias": True,
            "score_function": "sigmoid",
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "use_bias": False,
            "use_qkv_bias": False,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "max_position_embeddings": 16384,
            "torch_dtype": "bfloat16",
        }
        | own
        | changes
    )


def mamba(layers: int = 4, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "num_hidden_layers": layers,
        "hidden_size": 256,
        "intermediate_size": 512,
        "vocab_size": 1024,
        "state_size": 16,
        "conv_kernel": 4,
        "expand": 2,
        "time_step_rank": 16,
        "torch_dtype": "bfloat16",
    } | changes


def falcon_mamba(**changes: Any) -> dict[str, Any]:
    return mamba(architectures=["FalconMambaForCausalLM"], model_type="falcon_mamba", mixer_rms_eps=1e-6) | changes


def mamba2(layers: int = 4, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "num_hidden_layers": layers,
        "hidden_size": 256,
        "vocab_size": 1024,
        "num_heads": 16,
        "head_dim": 32,
        "state_size": 64,
        "conv_kernel": 4,
        "expand": 2,
        "n_groups": 2,
        "torch_dtype": "bfloat16",
    } | changes


def eagle3() -> dict[str, Any]:
    """An EAGLE-3 draft of one layer, with the attention of the small models above."""
    return llama(1, architectures=["LlamaForCausalLMEagle3"], draft_vocab_size=512)


def dflash(window: int | None = None) -> dict[str, Any]:
    """A DFlash draft of three layers."""
    own = {"block_size": 8, "dflash_config": {"target_layer_ids": [1, 2, 3], "mask_token_id": 5}}
    sliding = {"layer_types": ["sliding_attention"] * 3, "sliding_window": window, "use_sliding_window": True}
    return qwen3(3, architectures=["DFlashDraftModel"]) | own | (sliding if window else {})
