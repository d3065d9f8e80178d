"""Qwen3-Next and Qwen3.5 to 3.8: gated delta net in three layers of four, gated attention in the fourth.

Qwen3.5 and later wrap the language model with a vision encoder; the config of the language model is `text_config`.
MiniCPM-V 4.6 wraps a Qwen3.5 with an encoder of its own; Intern-S2-Preview is a Qwen3.5 with experts.
"""

from __future__ import annotations

from typing import Any

from hybridserve.planning.models.architecture import Architecture, GatedDeltaNet, Layer
from hybridserve.planning.models.fields import Fields
from hybridserve.planning.models.vision import NOT_READ, qwen3_vision


def read(fields: Fields) -> Architecture:
    """The architecture of a Qwen3-Next, Qwen3.5, Qwen3.6, Qwen3.8 or MiniCPM-V 4.6 model."""
    wrapper, name = fields, fields.architecture
    if vision := name.endswith("ForConditionalGeneration"):
        fields = fields.part("text_config")
    kinds = layer_kinds(fields)
    # Since Qwen3.5 the class decides: each layer of the MoE class has experts, and none of the dense class.
    moe = name.startswith(("Qwen3_5Moe", "InternS2"))
    sparse = fields.sparse_layers(len(kinds)) if name == "Qwen3NextForCausalLM" else [moe] * len(kinds)
    layers = tuple(
        Layer(attention=kind == "full_attention", state=kind == "linear_attention", mlp=not moe, moe=moe, norms=2)
        for kind, moe in zip(kinds, sparse, strict=True)
    )
    shared = fields.integer("shared_expert_intermediate_size", default=0, minimum=0)
    return Architecture(
        **fields.common("qwen3_next"),
        layers=layers,
        attention=fields.attention(
            "head_dim",
            qkv_bias=fields.boolean("qkv_bias", default=False),
            qk_norm=True,
            output_gate=fields.boolean("attn_output_gate", default=True),
        ),
        state=GatedDeltaNet(
            key_heads=fields.integer("linear_num_key_heads"),
            value_heads=fields.integer("linear_num_value_heads"),
            key_dim=fields.integer("linear_key_head_dim"),
            value_dim=fields.integer("linear_value_head_dim"),
            conv_kernel=fields.integer("linear_conv_kernel_dim", minimum=2),
        ),
        mlp=fields.mlp() if any(layer.mlp for layer in layers) else None,
        moe=fields.moe("moe_intermediate_size", shared_intermediate=shared, shared_gate=True)
        if any(layer.moe for layer in layers)
        else None,
        # Source: vLLM models/config.py, Qwen3_5ForConditionalGenerationConfig. Qwen3-Next has no such field.
        ssm_dtype=fields.dtype_of("mamba_ssm_dtype") if name.startswith("Qwen3_5") else None,
        marks_linear_attention=True,
        mtp=_mtp(fields, name, moe=any(layer.moe for layer in layers)),
        **_vision(wrapper, name) if vision else {},
    )


def _vision(wrapper: Fields, name: str) -> dict[str, Any]:
    """The encoder as arguments of `Architecture`."""
    return NOT_READ if name.startswith("MiniCPM") else qwen3_vision(wrapper)


def _mtp(fields: Fields, name: str, *, moe: bool) -> tuple[Layer, ...]:
    """Attention layers of the draft module. Source: vLLM models/qwen3_5_mtp.py, models/qwen3_next_mtp.py."""
    if name.startswith("MiniCPM"):
        return ()
    field = "num_nextn_predict_layers" if name.startswith("Qwen3Next") else "mtp_num_hidden_layers"
    count = fields.integer(field, default=1, minimum=0)
    return (Layer(attention=True, mlp=not moe, moe=moe, norms=2),) * count


def layer_kinds(fields: Fields) -> list[str]:
    """`linear_attention` or `full_attention` for each layer: as listed, else attention in every n-th."""
    every = fields.integer("full_attention_interval", default=4)
    if fields.get("layer_types") is not None:
        kinds = fields.names("layer_types")
        if len(kinds) != fields.layer_count:
            fields.fail("num_hidden_layers", "differs from the length of layer_types", str(len(kinds)))
    else:
        kinds = ["linear_attention" if (i + 1) % every else "full_attention" for i in range(fields.layer_count)]
    for kind in kinds:
        if kind not in ("linear_attention", "full_attention"):
            fields.fail("layer_types", f"contains {kind!r}", "one of linear_attention, full_attention")
    if len(set(kinds)) != 2:
        fields.fail("layer_types", "has one kind of layer only", "both linear_attention and full_attention")
    return kinds
