"""Jamba: Mamba-1 with attention in every n-th layer, experts in every m-th."""

from __future__ import annotations

from math import ceil

from hybridserve.planning.models.architecture import Architecture, Layer, Mamba1
from hybridserve.planning.models.fields import Fields


def read(fields: Fields) -> Architecture:
    """The architecture of a `JambaForCausalLM`."""
    hidden = fields.integer("hidden_size")
    layers = _layers(fields)
    rank = fields.get("mamba_dt_rank")
    return Architecture(
        **fields.common("jamba"),
        layers=layers,
        attention=fields.attention(),
        state=Mamba1(
            inner=fields.integer("mamba_expand") * hidden,
            state=fields.integer("mamba_d_state"),
            conv_kernel=fields.integer("mamba_d_conv", minimum=2),
            dt_rank=ceil(hidden / 16) if rank in (None, "auto") else fields.integer("mamba_dt_rank"),
            bias=fields.boolean("mamba_proj_bias", default=False),
            conv_bias=fields.boolean("mamba_conv_bias", default=True),
        ),
        mlp=fields.mlp() if any(layer.mlp for layer in layers) else None,
        moe=fields.moe("intermediate_size") if any(layer.moe for layer in layers) else None,
        marks_linear_attention=True,
    )


def _layers(fields: Fields) -> tuple[Layer, ...]:
    period, offset = fields.integer("attn_layer_period"), fields.integer("attn_layer_offset", minimum=0)
    experts = fields.integer("num_experts", "num_local_experts")
    sparse, shift = fields.integer("expert_layer_period"), fields.integer("expert_layer_offset", minimum=0)
    if offset >= period or shift >= sparse:
        fields.fail("attn_layer_offset", f"is {offset} of {period}", "less than the period, as expert_layer_offset")
    kinds = [(i % period == offset, experts > 1 and i % sparse == shift) for i in range(fields.layer_count)]
    if len({attention for attention, _ in kinds}) != 2:
        fields.fail("attn_layer_period", "leaves one kind of layer only", "both Mamba and attention layers")
    return tuple(
        Layer(attention=attention, state=not attention, mlp=not moe, moe=moe, norms=2) for attention, moe in kinds
    )
