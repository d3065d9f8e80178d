"""OLMo-Hybrid: gated delta net, with attention in every fourth layer, and an MLP in each."""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, GatedDeltaNet, Layer
from hybridserve.planning.models.fields import Fields
from hybridserve.planning.models.gated_delta_net import layer_kinds


def read(fields: Fields) -> Architecture:
    """The architecture of an `OlmoHybridForCausalLM`; defaults are those of its transformers config."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    keys = fields.integer("linear_num_key_heads", default=heads)
    key_dim = fields.integer("linear_key_head_dim", default=int(0.75 * hidden / keys))
    return Architecture(
        **fields.common("olmo_hybrid"),
        layers=tuple(
            Layer(attention=kind == "full_attention", state=kind == "linear_attention", mlp=True, norms=2)
            for kind in layer_kinds(fields)
        ),
        attention=fields.attention(qk_norm=True, qk_norm_all_heads=True),
        state=GatedDeltaNet(
            key_heads=keys,
            value_heads=fields.integer("linear_num_value_heads", default=heads),
            key_dim=key_dim,
            value_dim=fields.integer("linear_value_head_dim", default=2 * key_dim),
            conv_kernel=fields.integer("linear_conv_kernel_dim", default=4, minimum=2),
        ),
        mlp=fields.mlp(),
        moe=None,
        marks_linear_attention=True,
    )
