"""Qwen3-Next: gated delta net in three layers of four, gated attention in the fourth, experts in most."""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, Attention, GatedDeltaNet, Layer, Mlp, Moe
from hybridserve.planning.models.fields import Fields


def read(fields: Fields) -> Architecture:
    """The architecture of a `Qwen3NextForCausalLM`."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    layers = _layers(fields)
    return Architecture(
        **fields.common("qwen3_next"),
        layers=layers,
        attention=Attention(
            heads=heads,
            kv_heads=fields.integer("num_key_value_heads", default=heads),
            head_dim=fields.integer("head_dim", default=hidden // heads),
            qkv_bias=fields.flag("qkv_bias", default=False),
            qk_norm=True,
            output_gate=fields.flag("attn_output_gate", default=True),
        ),
        state=GatedDeltaNet(
            key_heads=fields.integer("linear_num_key_heads"),
            value_heads=fields.integer("linear_num_value_heads"),
            key_dim=fields.integer("linear_key_head_dim"),
            value_dim=fields.integer("linear_value_head_dim"),
            conv_kernel=fields.integer("linear_conv_kernel_dim", least=2),
        ),
        mlp=Mlp(fields.integer("intermediate_size"), matrices=3) if any(layer.mlp for layer in layers) else None,
        moe=_moe(fields) if any(layer.moe for layer in layers) else None,
        marks_linear_attention=True,
    )


def _layers(fields: Fields) -> tuple[Layer, ...]:
    count = fields.layer_count
    every = fields.integer("full_attention_interval", default=4)
    if fields.get("layer_types") is not None:
        kinds = fields.names("layer_types")
    else:
        kinds = ["linear_attention" if (i + 1) % every else "full_attention" for i in range(count)]
    for kind in kinds:
        if kind not in ("linear_attention", "full_attention"):
            fields.fail("layer_types", f"contains {kind!r}", "one of linear_attention, full_attention")
    if len(set(kinds)) != 2:
        fields.fail("layer_types", "has one kind of layer only", "both linear_attention and full_attention")
    experts = fields.integer("num_experts", least=0)
    step = fields.integer("decoder_sparse_step", default=1)
    dense = fields.get("mlp_only_layers") or []
    sparse = [experts > 0 and i not in dense and (i + 1) % step == 0 for i in range(len(kinds))]
    return tuple(
        Layer(attention=kind == "full_attention", state=kind == "linear_attention", mlp=not moe, moe=moe, norms=2)
        for kind, moe in zip(kinds, sparse, strict=True)
    )


def _moe(fields: Fields) -> Moe:
    return Moe(
        experts=fields.integer("num_experts"),
        experts_per_token=fields.integer("num_experts_per_tok"),
        intermediate=fields.integer("moe_intermediate_size"),
        matrices=3,
        shared_intermediate=fields.integer("shared_expert_intermediate_size", default=0, least=0),
        shared_gate=True,
    )
