"""Plain transformers of the Llama kind: the same attention in every layer, a gated MLP or experts after it."""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, Layer
from hybridserve.planning.models.fields import Fields


def read(fields: Fields) -> Architecture:
    """The architecture of a Llama, Mistral, Qwen2, Qwen3 or Qwen3-MoE model."""
    name = fields.architecture
    qwen = name.startswith("Qwen")
    if fields.get("sliding_window") is not None and fields.boolean("use_sliding_window", default=not qwen):
        fields.fail("sliding_window", f"is {fields.get('sliding_window')}", "sliding windows are not supported")
    layers = tuple(
        Layer(attention=True, mlp=not moe, moe=moe, norms=2)
        for moe in fields.sparse_layers(
            fields.layer_count, default_experts=None if name == "Qwen3MoeForCausalLM" else 0
        )
    )
    bias = fields.boolean("attention_bias", default=False)
    return Architecture(
        **fields.common("transformer"),
        layers=layers,
        attention=fields.attention(
            "head_dim",
            qkv_bias=bias or name == "Qwen2ForCausalLM",
            output_bias=bias and name == "LlamaForCausalLM",
            qk_norm=name in ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        ),
        state=None,
        mlp=fields.mlp(bias=fields.boolean("mlp_bias", default=False)) if any(layer.mlp for layer in layers) else None,
        moe=fields.moe("moe_intermediate_size") if any(layer.moe for layer in layers) else None,
    )
