"""Small models of each family, and some published ones, as config.json, for the differential suite."""

from __future__ import annotations

from typing import Any

NANO_9B_LAYERS = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
NANO_12B_LAYERS = "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-"
NANO_30B_LAYERS = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"


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
