"""Falcon-H1: every layer has attention, a Mamba-2 mixer beside it, and an MLP."""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, Attention, Layer, Mamba2, Mlp
from hybridserve.planning.models.fields import Fields


def read(fields: Fields) -> Architecture:
    """The architecture of a `FalconH1ForCausalLM`."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    mamba_heads = fields.integer("mamba_n_heads")
    given = fields.integer("mamba_d_ssm", default=0, least=0)
    inner = given or fields.integer("mamba_expand") * hidden
    head_dim = fields.get("mamba_d_head")
    if inner % mamba_heads or head_dim not in (None, "auto", inner // mamba_heads):
        fields.fail("mamba_d_head", f"is {head_dim!r}", f"mamba_n_heads * mamba_d_head = {inner}")
    bias = fields.flag("attention_bias", default=False)
    layer = Layer(attention=True, state=True, mlp=True, norms=2)
    return Architecture(
        name=fields.architecture,
        family="falcon_h1",
        hidden=hidden,
        vocab=fields.integer("vocab_size"),
        tied_embeddings=fields.flag("tie_word_embeddings", default=False),
        dtype=fields.dtype,
        max_position_embeddings=fields.max_position_embeddings,
        layers=(layer,) * fields.layer_count,
        attention=Attention(
            heads=heads,
            kv_heads=fields.integer("num_key_value_heads", default=heads),
            head_dim=fields.integer("head_dim", default=hidden // heads),
            qkv_bias=bias,
            output_bias=bias,
        ),
        state=Mamba2(
            heads=mamba_heads,
            head_dim=inner // mamba_heads,
            groups=fields.integer("mamba_n_groups"),
            state=fields.integer("mamba_d_state"),
            conv_kernel=fields.integer("mamba_d_conv", least=2),
            chunk=fields.integer("mamba_chunk_size", default=256),
            bias=fields.flag("mamba_proj_bias", default=False),
            conv_bias=fields.flag("mamba_conv_bias", default=True),
            gated_norm=fields.flag("mamba_rms_norm", default=False),
        ),
        mlp=Mlp(fields.integer("intermediate_size"), matrices=3, bias=fields.flag("mlp_bias", default=False)),
        moe=None,
        yarn_context=fields.yarn_context,
        kv_cache_dtype=fields.kv_cache_dtype,
    )
