"""Ling and Ring 2.5 and 3: lightning attention (2.5) or Kimi delta attention (3), latent attention (MLA), and experts.

Source: vLLM models/bailing_moe_linear.py (2.5) and models/bailing_moe_v3.py (3).
"""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, KimiDelta, Layer, Lightning, Moe
from hybridserve.planning.models.fields import Fields

GATE = "gated_attention_proj_granularity_type"


def read(fields: Fields) -> Architecture:
    """The architecture of a `BailingMoeV2_5ForCausalLM` or a `BailingMoeV3ForCausalLM`."""
    third = fields.architecture == "BailingMoeV3ForCausalLM"
    heads, count = fields.integer("num_attention_heads"), fields.layer_count
    every = fields.integer("layer_group_size", default=1)
    # The layers after the last whole group have full attention in version 3.
    grouped = count // every * every if third else count
    states = [(index + 1) % every != 0 and index < grouped for index in range(count)]
    if len(set(states)) != 2:
        fields.fail("layer_group_size", f"is {every}", "a number that leaves both linear and full attention")
    head_dim = fields.integer("head_dim", default=fields.integer("hidden_size") // heads)
    dense = fields.integer("first_k_dense_replace", default=0, minimum=0)
    sparse = [fields.integer("num_experts") > 1 and index >= dense for index in range(count)]
    return Architecture(
        **fields.common("bailing_hybrid"),
        layers=tuple(
            Layer(attention=not state, state=state, mlp=not moe, moe=moe, norms=2)
            for state, moe in zip(states, sparse, strict=True)
        ),
        attention=fields.latent_attention(gate=fields.get(GATE) if third else None),
        state=KimiDelta(heads, head_dim, fields.integer("short_conv_kernel_size", minimum=2))
        if third
        else Lightning(
            heads,
            head_dim,
            norm_groups=fields.integer("group_norm_size", default=1),
            qk_norm=fields.boolean("use_qk_norm", default=False),
        ),
        mlp=None if all(sparse) else fields.mlp(bias=fields.boolean("use_bias", default=False)),
        moe=_moe(fields) if any(sparse) else None,
        # Source: vLLM models/bailing_moe_mtp.py, models/bailing_moe_v3_mtp.py.
        mtp=(Layer(attention=True, moe=True, norms=2),)
        * fields.integer("num_nextn_predict_layers", default=0, minimum=0),
    )


def _moe(fields: Fields) -> Moe:
    width = fields.integer("moe_intermediate_size")
    shared = fields.integer("moe_shared_expert_intermediate_size", default=width)
    return fields.moe(
        "moe_intermediate_size",
        shared_intermediate=shared * fields.integer("num_shared_experts", default=0, minimum=0),
        correction_bias=fields.boolean("moe_router_enable_expert_bias", default=True),
        router_float32=True,
    )
