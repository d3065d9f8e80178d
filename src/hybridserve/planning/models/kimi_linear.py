"""Kimi-Linear and Kimi K3: Kimi delta attention (KDA), latent attention (MLA) in every fourth layer, and experts.

Kimi K3 wraps the language model with a vision encoder, which is not counted. Source: vLLM models/kimi_k3.
"""

from __future__ import annotations

from dataclasses import replace

from hybridserve.planning.models.architecture import Architecture, KimiDelta, Layer, Moe
from hybridserve.planning.models.fields import Fields
from hybridserve.planning.models.vision import NOT_READ

# Experts are padded to this width on a rank (`min_moe_intermediate_per_partition`).
EXPERT_WIDTH = 256


def read(fields: Fields) -> Architecture:
    """The architecture of a `KimiLinearForCausalLM` or a `KimiK3ForConditionalGeneration`."""
    if vision := fields.architecture == "KimiK3ForConditionalGeneration":
        fields = fields.part("text_config")
    linear = Fields(fields.mapping("linear_attn_config"))
    if not fields.boolean("mla_use_nope", default=False):
        fields.fail("mla_use_nope", f"is {fields.get('mla_use_nope')}", "true: vLLM's MLA for Kimi is NoPE-only")
    states, sparse = _states(fields, linear), _sparse(fields)
    head_dim = linear.integer("head_dim")
    # Each layer of K3 has two norms and two projections to one number more.
    norms = 2 if fields.get("attn_res_block_size") is None else 6
    full_gate = linear.boolean("use_full_rank_gate", default=False)
    return Architecture(
        **fields.common("kimi_linear"),
        layers=tuple(
            Layer(attention=not state, state=state, mlp=not moe, moe=moe, norms=norms)
            for state, moe in zip(states, sparse, strict=True)
        ),
        attention=fields.latent_attention(
            gate="element_wise" if fields.boolean("mla_use_output_gate", default=False) else None
        ),
        state=KimiDelta(
            heads=linear.integer("num_heads"),
            head_dim=head_dim,
            conv_kernel=linear.integer("short_conv_kernel_size", minimum=2),
            decay_rank=head_dim,
            gate_rank=None if full_gate else head_dim,
            flash_kernel=full_gate and linear.get("gate_lower_bound") is not None,
        ),
        mlp=None if all(sparse) else fields.mlp(),
        moe=_moe(fields) if any(sparse) else None,
        mtp=_mtp(fields) if vision else (),
        **NOT_READ if vision else {},
    )


def _states(fields: Fields, linear: Fields) -> list[bool]:
    """Which layers have KDA. The config counts layers from one."""
    kda = linear.numbers("kda_layers")
    kinds = [index in kda for index in range(1, fields.layer_count + 1)]
    if len(set(kinds)) != 2:
        linear.fail("linear_attn_config.kda_layers", "leaves one kind of layer only", "both KDA and full attention")
    return kinds


def _sparse(fields: Fields) -> list[bool]:
    dense, every = (
        fields.integer("first_k_dense_replace", default=0, minimum=0),
        fields.integer("moe_layer_freq", default=1),
    )
    experts = fields.get("num_experts") is not None
    return [experts and index >= dense and index % every == 0 for index in range(fields.layer_count)]


def _mtp(fields: Fields) -> tuple[Layer, ...]:
    """Layers of K3's draft module. Source: vLLM models/kimi_k3/nvidia/mtp.py."""
    count = fields.integer("num_nextn_predict_layers", default=0, minimum=0)
    return (Layer(attention=True, moe=fields.get("num_experts") is not None, norms=2),) * count


def _moe(fields: Fields) -> Moe:
    shared = fields.integer("num_shared_experts", default=0, minimum=0)
    moe = fields.moe(
        "moe_intermediate_size",
        shared_intermediate=shared * fields.integer("moe_intermediate_size"),
        correction_bias=True,
    )
    return replace(moe, latent=fields.get("routed_expert_hidden_size"), width_on_rank=EXPERT_WIDTH)
