"""Falcon-H1: every layer has attention, a Mamba-2 mixer in parallel with it, and an MLP."""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, Layer
from hybridserve.planning.models.fields import Fields


def read(fields: Fields) -> Architecture:
    """The architecture of a `FalconH1ForCausalLM`."""
    inner = fields.integer("mamba_d_ssm", default=0, minimum=0)
    inner = inner or fields.integer("mamba_expand") * fields.integer("hidden_size")
    bias = fields.boolean("attention_bias", default=False)
    layer = Layer(attention=True, state=True, mlp=True, norms=2)
    return Architecture(
        **fields.common("falcon_h1"),
        layers=(layer,) * fields.layer_count,
        attention=fields.attention("head_dim", qkv_bias=bias, output_bias=bias),
        state=fields.mamba2(inner, gated_norm=fields.boolean("mamba_rms_norm", default=False)),
        mlp=fields.mlp(bias=fields.boolean("mlp_bias", default=False)),
        moe=None,
    )
