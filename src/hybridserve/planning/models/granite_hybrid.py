"""Granite 4: Mamba-2 or attention in each layer, followed by experts and a shared MLP, or the shared MLP alone."""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, Attention, Layer, Mamba2, Mlp, Moe
from hybridserve.planning.models.fields import Fields

STATES, ATTENTIONS = ("mamba", "linear_attention"), ("attention", "full_attention")


def read(fields: Fields) -> Architecture:
    """The architecture of a `GraniteMoeHybridForCausalLM`. One without any Mamba layer is a plain transformer."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    kinds = fields.names("layer_types", "layers_block_type")
    for kind in kinds:
        if kind not in STATES + ATTENTIONS:
            fields.fail("layer_types", f"contains {kind!r}", f"one of {', '.join(STATES + ATTENTIONS)}")
    if len(kinds) != fields.layer_count:
        fields.fail("num_hidden_layers", "differs from the length of layer_types", str(len(kinds)))
    if not any(kind in ATTENTIONS for kind in kinds):
        fields.fail("layer_types", "has no attention layer", "a hybrid model: both Mamba and attention layers")
    experts = fields.integer("num_local_experts", least=0)
    shared = fields.integer("shared_intermediate_size")
    bias = fields.flag("attention_bias", default=False)
    layers = tuple(
        Layer(attention=kind in ATTENTIONS, state=kind in STATES, mlp=not experts, moe=bool(experts), norms=2)
        for kind in kinds
    )
    hybrid = any(layer.state for layer in layers)
    return Architecture(
        name=fields.architecture,
        family="granite_hybrid",
        hidden=hidden,
        vocab=fields.integer("vocab_size"),
        tied_embeddings=fields.flag("tie_word_embeddings", default=False),
        dtype=fields.dtype,
        max_position_embeddings=fields.max_position_embeddings,
        layers=layers,
        attention=Attention(
            heads=heads,
            kv_heads=fields.integer("num_key_value_heads", default=heads),
            head_dim=fields.width_of_a_head(hidden, heads),
            qkv_bias=bias,
            output_bias=bias,
        ),
        state=_mamba(fields, hidden) if hybrid else None,
        mlp=None if experts else Mlp(shared, matrices=3),
        moe=Moe(
            experts=experts,
            experts_per_token=fields.integer("num_experts_per_tok"),
            intermediate=fields.integer("intermediate_size"),
            matrices=3,
            shared_intermediate=shared,
        )
        if experts
        else None,
        yarn_context=fields.yarn_context,
        kv_cache_dtype=fields.kv_cache_dtype,
        marks_linear_attention=True,
    )


def _mamba(fields: Fields, hidden: int) -> Mamba2:
    heads = fields.integer("mamba_n_heads")
    inner = fields.integer("mamba_expand") * hidden
    head_dim = fields.get("mamba_d_head")
    if inner % heads or head_dim not in (None, "auto", inner // heads):
        fields.fail("mamba_d_head", f"is {head_dim!r}", f"mamba_n_heads * mamba_d_head = {inner}")
    return Mamba2(
        heads=heads,
        head_dim=inner // heads,
        groups=fields.integer("mamba_n_groups"),
        state=fields.integer("mamba_d_state"),
        conv_kernel=fields.integer("mamba_d_conv", least=2),
        chunk=fields.integer("mamba_chunk_size", default=256),
        bias=fields.flag("mamba_proj_bias", default=False),
        conv_bias=fields.flag("mamba_conv_bias", default=True),
    )
