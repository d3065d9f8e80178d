"""Nemotron-H: each layer is a Mamba-2 mixer, attention, an MLP or a mixture of experts.

Old configs spell the layers as a string (`hybrid_override_pattern`: M, *, -, E), new ones as a list
(`layers_block_type`); Mamba fields exist with and without the prefix `mamba_`.
"""

from __future__ import annotations

from dataclasses import replace

from hybridserve.planning.models.architecture import Architecture, Layer, Mamba2, Mlp, Moe
from hybridserve.planning.models.fields import Fields

STATE, ATTENTION = Layer(state=True), Layer(attention=True)
MLP, MOE = Layer(mlp=True), Layer(moe=True)
LETTERS = {"M": STATE, "*": ATTENTION, "-": MLP, "E": MOE}
WORDS = {
    "linear_attention": STATE,
    "mamba": STATE,
    "full_attention": ATTENTION,
    "attention": ATTENTION,
    "mlp": MLP,
    "moe": MOE,
}
ENCODERS = "the encoders of images and sound: activations, cache, and weights unless their size is published"


def read(fields: Fields) -> Architecture:
    """The architecture of a `NemotronHForCausalLM`, or of one with encoders (Nano VL, Omni)."""
    name = fields.architecture
    if name == "NemotronHForCausalLM":
        return _language_model(fields)
    arch = _language_model(fields.part("text_config", "llm_config"))
    # Only Nano VL has the language model's rule for `auto`. Source: vLLM models/config.py MODELS_CONFIG_MAP; for the
    # drafts, config/speculative.py hf_config_override.
    return replace(
        arch,
        pipeline=False,
        ssm_dtype=arch.ssm_dtype if name == "NemotronH_Nano_VL_V2" else None,
        mtp=() if "_Nano_" in name else arch.mtp,
        uncounted=(ENCODERS,),
        weights_counted=False,
    )


def _language_model(fields: Fields) -> Architecture:
    if fields.get("block_configs") is not None:
        fields.fail("block_configs", "layers differ in shape (Puzzle)", "use a model with one shape per kind of layer")
    if fields.get("sliding_window") is not None:
        fields.fail("sliding_window", f"is {fields.get('sliding_window')}", "sliding windows are not supported")
    layers = _layers(fields)
    return Architecture(
        **fields.common("nemotron_h"),
        layers=layers,
        attention=fields.attention("head_dim", "attention_head_dim"),
        state=Mamba2(
            heads=fields.integer("mamba_num_heads"),
            head_dim=fields.integer("mamba_head_dim"),
            groups=fields.integer("n_groups", "mamba_n_groups"),
            state=fields.integer("ssm_state_size"),
            conv_kernel=fields.integer("conv_kernel", "mamba_d_conv", minimum=2),
            chunk=fields.integer("chunk_size", "mamba_chunk_size", default=128),
            bias=fields.boolean("use_bias", default=False),
            conv_bias=fields.boolean("use_conv_bias", "mamba_conv_bias", default=True),
        ),
        mlp=_mlp(fields) if MLP in layers else None,
        moe=_moe(fields) if MOE in layers else None,
        # `auto` is the checkpoint's own type, else float32. Source: vLLM models/config.py.
        ssm_dtype=fields.dtype_of("mamba_ssm_cache_dtype") or "float32",
        marks_linear_attention=True,
        mtp=_mtp(fields),
    )


def _layers(fields: Fields) -> tuple[Layer, ...]:
    """The list takes precedence over the string, as in transformers."""
    if fields.get("layers_block_type", "layer_types") is not None:
        name, kinds = "layers_block_type", WORDS
        names = fields.names("layers_block_type", "layer_types")
    else:
        name, kinds = "hybrid_override_pattern", LETTERS
        pattern = fields.get(name)
        if not isinstance(pattern, str) or not pattern:
            fields.fail(name, "is missing", "a string of M, *, - and E, or a list layers_block_type")
        names = list(pattern)
    for word in names:
        if word not in kinds:
            fields.fail(name, f"contains {word!r}", f"one of {', '.join(kinds)}")
    layers = tuple(kinds[word] for word in names)
    for needed, word in ((STATE, "Mamba"), (ATTENTION, "attention")):
        if needed not in layers:
            fields.fail(name, f"has no {word} layer", "a hybrid model: both Mamba and attention layers")
    return layers


def _mtp(fields: Fields) -> tuple[Layer, ...]:
    """Layers of the draft module. Source: vLLM models/nemotron_h_mtp.py."""
    if not fields.integer("num_nextn_predict_layers", default=0, minimum=0):
        return ()
    pattern = fields.get("mtp_layers_block_type", "mtp_hybrid_override_pattern")
    kinds: dict[str, Layer] = WORDS if isinstance(pattern, list) else LETTERS
    if not isinstance(pattern, list | str) or any(kinds.get(word) not in (ATTENTION, MOE) for word in pattern):
        fields.fail("mtp_hybrid_override_pattern", f"is {pattern!r}", "attention (*) and expert (E) layers")
    return tuple(kinds[word] for word in pattern)


def _mlp(fields: Fields) -> Mlp:
    width = fields.get("intermediate_size")
    if isinstance(width, list):
        if any(other != width[0] for other in width) or not width:
            fields.fail("intermediate_size", "differs from layer to layer", "one width for all MLP layers")
        fields = Fields({"intermediate_size": width[0], "mlp_bias": fields.get("mlp_bias")})
    return Mlp(fields.integer("intermediate_size"), matrices=2, bias=fields.boolean("mlp_bias", default=False))


def _moe(fields: Fields) -> Moe:
    shared = fields.integer("n_shared_experts", default=0, minimum=0)
    return Moe(
        experts=fields.integer("n_routed_experts", "num_local_experts"),
        experts_per_token=fields.integer("num_experts_per_tok"),
        intermediate=fields.integer("moe_intermediate_size"),
        matrices=2,
        shared_intermediate=shared * fields.integer("moe_shared_expert_intermediate_size") if shared else 0,
        latent=None if fields.get("moe_latent_size") is None else fields.integer("moe_latent_size"),
        correction_bias=True,
    )
