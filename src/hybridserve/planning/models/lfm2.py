"""LFM2 and LFM2.5: short convolutions with attention in some layers; an MLP, or experts after the first layers.

LFM2-VL wraps the language model with a vision encoder, which is not counted.
"""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, Layer, Mlp, ShortConv
from hybridserve.planning.models.fields import Fields
from hybridserve.planning.models.vision import NOT_READ


def read(fields: Fields) -> Architecture:
    """The architecture of an LFM2, LFM2-MoE or LFM2-VL model. vLLM ties the embeddings of all."""
    vision = fields.architecture == "Lfm2VlForConditionalGeneration"
    text = Fields(fields.get("text_config") or {}).names("architectures")[0] if vision else fields.architecture
    fields = fields.part("text_config") if vision else fields
    moe = text == "Lfm2MoeForCausalLM"
    kinds = _kinds(fields)
    dense = fields.integer("num_dense_layers", default=2, minimum=0) if moe else len(kinds)
    layers = tuple(
        Layer(attention=attention, state=not attention, mlp=index < dense, moe=index >= dense, norms=2)
        for index, attention in enumerate(kinds)
    )
    hidden = fields.integer("hidden_size")
    return Architecture(
        **fields.common("lfm2") | {"tied_embeddings": True},
        layers=layers,
        attention=fields.attention(qk_norm=True),
        state=ShortConv(
            width=hidden if moe else fields.integer("conv_dim"),
            conv_kernel=fields.integer("conv_L_cache", minimum=2),
            bias=fields.boolean("conv_bias", default=False),
        ),
        mlp=None if dense == 0 else fields.mlp() if moe else _mlp(fields, hidden),
        moe=fields.moe("moe_intermediate_size", correction_bias=fields.boolean("use_expert_bias", default=True))
        if moe
        else None,
        **NOT_READ if vision else {},
    )


def _kinds(fields: Fields) -> list[bool]:
    """Which layers have attention. A list of indices is the older spelling."""
    count = fields.layer_count
    if fields.get("layer_types") is None and isinstance(indices := fields.get("full_attn_idxs"), list):
        kinds = [index in indices for index in range(count)]
    else:
        names = fields.names("layer_types")
        for name in names:
            if name not in ("conv", "full_attention"):
                fields.fail("layer_types", f"contains {name!r}", "one of conv, full_attention")
        kinds = [name == "full_attention" for name in names]
    if len(kinds) != count:
        fields.fail("num_hidden_layers", "differs from the length of layer_types", str(len(kinds)))
    if len(set(kinds)) != 2:
        fields.fail("layer_types", "has one kind of layer only", "both conv and full_attention")
    return kinds


def _mlp(fields: Fields, hidden: int) -> Mlp:
    """The MLP with the width that vLLM derives. Source: vLLM models/lfm2.py, Lfm2MLP."""
    width = fields.integer("block_ff_dim", "intermediate_size")
    if fields.integer("block_dim", default=hidden) != hidden:
        fields.fail("block_dim", f"is {fields.get('block_dim')}", f"hidden_size, {hidden}")
    if fields.boolean("block_auto_adjust_ff_dim", default=True):
        multiple = fields.integer("block_multiple_of", default=256)
        factor = fields.get("block_ffn_dim_multiplier")
        width = int((1.0 if factor is None else factor) * int(2 * width / 3))
        width = -(-width // multiple) * multiple
    return Mlp(width, matrices=3)
