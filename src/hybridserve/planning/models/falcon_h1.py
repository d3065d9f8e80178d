"""Falcon-H1: every layer has attention, a Mamba-2 mixer beside it, and an MLP."""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, Attention, Layer, Mlp
from hybridserve.planning.models.fields import Fields


def read(fields: Fields) -> Architecture:
    """The architecture of a `FalconH1ForCausalLM`."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    inner = fields.integer("mamba_d_ssm", default=0, least=0) or fields.integer("mamba_expand") * hidden
    bias = fields.flag("attention_bias", default=False)
    layer = Layer(attention=True, state=True, mlp=True, norms=2)
    return Architecture(
        **fields.common("falcon_h1"),
        layers=(layer,) * fields.layer_count,
        attention=Attention(
            heads=heads,
            kv_heads=fields.integer("num_key_value_heads", default=heads),
            head_dim=fields.integer("head_dim", default=hidden // heads),
            qkv_bias=bias,
            output_bias=bias,
        ),
        state=fields.mamba2(inner, gated_norm=fields.flag("mamba_rms_norm", default=False)),
        mlp=Mlp(fields.integer("intermediate_size"), matrices=3, bias=fields.flag("mlp_bias", default=False)),
        moe=None,
    )
