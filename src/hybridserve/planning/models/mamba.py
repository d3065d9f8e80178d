"""Mamba, Falcon-Mamba and Mamba-2: a state mixer in every layer, no attention."""

from __future__ import annotations

from typing import Any

from hybridserve.planning.models.architecture import UNLIMITED, Architecture, Layer, Mamba1, Mamba2
from hybridserve.planning.models.fields import Fields


def read(fields: Fields) -> Architecture:
    """The architecture of a `MambaForCausalLM`, `FalconMambaForCausalLM` or `Mamba2ForCausalLM`."""
    second = fields.architecture == "Mamba2ForCausalLM"
    return Architecture(
        **_common(fields, second),
        layers=(Layer(state=True),) * fields.layer_count,
        attention=None,
        state=_mamba2(fields) if second else _mamba1(fields),
        mlp=None,
        moe=None,
        # Their configs in transformers name every layer `linear_attention`.
        marks_linear_attention=True,
        # vLLM's Mamba-2 builds every layer on each stage.
        pipeline=not second,
    )


def _common(fields: Fields, second: bool) -> dict[str, Any]:
    """Without a length in the config any context can be set, and vLLM's default is 2048."""
    fields = fields.with_default("tie_word_embeddings", not second)
    default = None
    if fields.get("model_max_length", "max_position_embeddings") is None:
        fields, default = fields.with_default("max_position_embeddings", UNLIMITED), 2048
    return fields.common("mamba2" if second else "mamba") | {"default_context": default}


def _mamba1(fields: Fields) -> Mamba1:
    rank, hidden = fields.get("time_step_rank"), fields.integer("hidden_size")
    return Mamba1(
        inner=fields.integer("intermediate_size", default=fields.integer("expand", default=2) * hidden),
        state=fields.integer("state_size", default=16),
        conv_kernel=fields.integer("conv_kernel", default=4, minimum=2),
        dt_rank=-(-hidden // 16) if rank in (None, "auto") else fields.integer("time_step_rank"),
        bias=fields.boolean("use_bias", default=False),
        conv_bias=fields.boolean("use_conv_bias", default=True),
        # Falcon-Mamba normalizes dt, B and C without weights.
        norms=False,
    )


def _mamba2(fields: Fields) -> Mamba2:
    heads, head_dim = fields.integer("num_heads"), fields.integer("head_dim")
    inner = fields.integer("expand", default=2) * fields.integer("hidden_size")
    if heads * head_dim != inner:
        fields.fail("head_dim", f"is {head_dim}", f"num_heads * head_dim = expand * hidden_size = {inner}")
    return Mamba2(
        heads=heads,
        head_dim=head_dim,
        groups=fields.integer("n_groups"),
        state=fields.integer("state_size"),
        conv_kernel=fields.integer("conv_kernel", minimum=2),
        chunk=fields.integer("chunk_size", default=256),
        bias=fields.boolean("use_bias", default=False),
        conv_bias=fields.boolean("use_conv_bias", default=True),
    )
