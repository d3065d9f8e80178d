"""Plain transformers of the Llama kind: the same attention in every layer, a gated MLP or experts after it."""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, Attention, Layer, Mlp, Moe
from hybridserve.planning.models.fields import Fields


def read(fields: Fields) -> Architecture:
    """The architecture of a Llama, Mistral, Qwen2, Qwen3 or Qwen3-MoE model."""
    name = fields.architecture
    qwen = name.startswith("Qwen")
    if fields.get("sliding_window") is not None and fields.flag("use_sliding_window", default=not qwen):
        fields.fail("sliding_window", f"is {fields.get('sliding_window')}", "sliding windows are not supported")
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    layers = _layers(fields)
    bias = fields.flag("attention_bias", default=False)
    return Architecture(
        **fields.common("transformer"),
        layers=layers,
        attention=Attention(
            heads=heads,
            kv_heads=fields.integer("num_key_value_heads", default=heads),
            head_dim=fields.integer("head_dim", default=hidden // heads),
            qkv_bias=bias or name == "Qwen2ForCausalLM",
            output_bias=bias and name == "LlamaForCausalLM",
            qk_norm=name in ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        ),
        state=None,
        mlp=Mlp(fields.integer("intermediate_size"), matrices=3, bias=fields.flag("mlp_bias", default=False))
        if any(layer.mlp for layer in layers)
        else None,
        moe=Moe(
            experts=fields.integer("num_experts"),
            experts_per_token=fields.integer("num_experts_per_tok"),
            intermediate=fields.integer("moe_intermediate_size"),
            matrices=3,
        )
        if any(layer.moe for layer in layers)
        else None,
    )


def _layers(fields: Fields) -> tuple[Layer, ...]:
    experts = fields.integer("num_experts", default=0, least=0)
    step, dense = fields.integer("decoder_sparse_step", default=1), fields.get("mlp_only_layers") or []
    sparse = [experts > 0 and i not in dense and (i + 1) % step == 0 for i in range(fields.layer_count)]
    return tuple(Layer(attention=True, mlp=not moe, moe=moe, norms=2) for moe in sparse)
