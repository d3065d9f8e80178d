"""Granite 4: Mamba-2 or attention in each layer, followed by experts and a shared MLP, or the shared MLP alone."""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, Layer, Mlp
from hybridserve.planning.models.fields import Fields

STATES, ATTENTIONS = ("mamba", "linear_attention"), ("attention", "full_attention")


def read(fields: Fields) -> Architecture:
    """The architecture of a `GraniteMoeHybridForCausalLM`. Without Mamba layers it is a plain transformer."""
    kinds = fields.names("layer_types", "layers_block_type")
    for kind in kinds:
        if kind not in STATES + ATTENTIONS:
            fields.fail("layer_types", f"contains {kind!r}", f"one of {', '.join(STATES + ATTENTIONS)}")
    if len(kinds) != fields.layer_count:
        fields.fail("num_hidden_layers", "differs from the length of layer_types", str(len(kinds)))
    if not any(kind in ATTENTIONS for kind in kinds):
        fields.fail("layer_types", "has no attention layer", "a hybrid model: both Mamba and attention layers")
    experts = fields.integer("num_local_experts", minimum=0)
    shared = fields.integer("shared_intermediate_size")
    bias = fields.boolean("attention_bias", default=False)
    layers = tuple(
        Layer(attention=kind in ATTENTIONS, state=kind in STATES, mlp=not experts, moe=bool(experts), norms=2)
        for kind in kinds
    )
    hybrid = any(layer.state for layer in layers)
    return Architecture(
        **fields.common("granite_hybrid"),
        layers=layers,
        attention=fields.attention(qkv_bias=bias, output_bias=bias),
        state=fields.mamba2(fields.integer("mamba_expand") * fields.integer("hidden_size")) if hybrid else None,
        mlp=None if experts else Mlp(shared, matrices=3),
        moe=fields.moe("intermediate_size", shared_intermediate=shared) if experts else None,
        marks_linear_attention=True,
    )
