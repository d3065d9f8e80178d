"""Zamba2: Mamba-2 in every layer, and in some layers one of few transformer blocks, which they share, before it."""

from __future__ import annotations

from typing import Any

from hybridserve.planning.models.architecture import Architecture, Attention, Layer, Mamba2
from hybridserve.planning.models.fields import Fields


def read(fields: Fields) -> Architecture:
    """The architecture of a `Zamba2ForCausalLM`."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    kinds = fields.names("layers_block_type", "layer_types")
    for kind in kinds:
        if kind not in ("mamba", "linear_attention", "hybrid"):
            fields.fail("layers_block_type", f"contains {kind!r}", "one of mamba, linear_attention, hybrid")
    if len(kinds) != fields.layer_count:
        fields.fail("num_hidden_layers", "differs from the length of layers_block_type", str(len(kinds)))
    if "hybrid" not in kinds:
        fields.fail("layers_block_type", "has no hybrid layer", "at least one hybrid layer")
    if fields.boolean("use_long_context", default=False):
        fields.fail("use_long_context", "is true", "false: the derived context is not supported")
    inner, mamba_heads = fields.integer("mamba_expand", default=2) * hidden, fields.integer("n_mamba_heads")
    if inner % mamba_heads or (2 * hidden) % heads:
        fields.fail(
            "n_mamba_heads",
            f"is {mamba_heads}",
            f"a number that divides {inner}; num_attention_heads, one that divides {2 * hidden}",
        )
    return Architecture(
        **fields.common("zamba2") | {"tied_embeddings": True},
        layers=tuple(Layer(attention=kind == "hybrid", state=True) for kind in kinds),
        # vLLM's attention has as many key heads as query heads, whatever num_key_value_heads is.
        attention=Attention(heads=heads, kv_heads=heads, head_dim=2 * hidden // heads),
        state=Mamba2(
            heads=mamba_heads,
            head_dim=inner // mamba_heads,
            groups=fields.integer("mamba_ngroups", default=1),
            state=fields.integer("mamba_d_state"),
            conv_kernel=fields.integer("mamba_d_conv", minimum=2),
            chunk=fields.integer("chunk_size", default=256),
            bias=fields.boolean("add_bias_linear", default=False),
            conv_bias=fields.boolean("use_conv_bias", default=True),
        ),
        mlp=None,
        moe=None,
        marks_linear_attention=set(kinds) != {"hybrid"},
        attention_first=True,
        pipeline=False,
        **_shared(fields, kinds.count("hybrid")),
    )


def _shared(fields: Fields, hybrids: int) -> dict[str, Any]:
    """Weights of the shared blocks, and of the adapters and projections that each hybrid layer has for them.

    Source: vLLM models/zamba2.py; the first number is divided by tensor parallelism.
    """
    if fields.get("num_mem_blocks") is None or fields.get("adapter_rank") is None:
        part = "the weights of the shared blocks and adapters: config.json states no num_mem_blocks or adapter_rank"
        return {"weights_counted": False, "uncounted": (part,)}
    hidden, width = fields.integer("hidden_size"), fields.integer("intermediate_size")
    blocks, rank = fields.integer("num_mem_blocks"), fields.integer("adapter_rank")
    # Queries, keys, values and gates take the hidden states and the embeddings, side by side.
    split, whole = blocks * (14 * hidden**2 + 3 * hidden * width), blocks * 3 * hidden
    if fields.boolean("add_bias_linear", default=False):
        split, whole = split + blocks * 2 * width, whole + blocks * hidden
    split += hybrids * rank * (hidden + 2 * width)
    if fields.boolean("use_shared_attention_adapter", default=False):
        split += hybrids * 3 * rank * 4 * hidden
    return {"shared": (split, whole + hybrids * hidden**2)}
