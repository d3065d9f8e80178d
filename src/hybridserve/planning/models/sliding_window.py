"""Transformers with sliding windows in most layers: gpt-oss, Gemma 2 to 4. Baselines for hybrids of similar size."""

from __future__ import annotations

from dataclasses import replace

from hybridserve.planning.models.architecture import Architecture, Attention, Layer, Moe
from hybridserve.planning.models.fields import Fields
from hybridserve.planning.models.vision import NOT_READ

VISION = "ForConditionalGeneration"


def read(fields: Fields) -> Architecture:
    """The architecture of a gpt-oss or Gemma model; with a vision encoder, that of its `text_config`."""
    name = fields.architecture
    if vision := name.endswith(VISION):
        fields = fields.part("text_config")
    arch = _gpt_oss(fields) if name == "GptOssForCausalLM" else _gemma(fields, name.removesuffix(VISION)[:6])
    return replace(arch, **NOT_READ) if vision else arch


def _gpt_oss(fields: Fields) -> Architecture:
    # The published config names no type; vLLM finds bfloat16 in the weights.
    fields = fields if fields.get("torch_dtype") else fields.with_default("dtype", "bfloat16")
    bias = fields.boolean("attention_bias", default=True)
    return Architecture(
        **fields.common("gpt_oss"),
        # vLLM's gpt-oss has a window in every other layer, whatever the config lists.
        layers=tuple(
            Layer(attention=True, window=index % 2 == 0, moe=True, norms=2) for index in range(fields.layer_count)
        ),
        attention=fields.attention("head_dim", qkv_bias=bias, output_bias=bias),
        state=None,
        mlp=None,
        moe=fields.moe("intermediate_size", bias=True),
        window=fields.integer("sliding_window"),
    )


def _gemma(fields: Fields, version: str) -> Architecture:
    windows = _windows(fields, every=2 if version == "Gemma2" else 6)
    if all(windows):
        fields.fail("layer_types", "has sliding windows only", "a model with full attention in some layers")
    bias = fields.boolean("attention_bias", default=False)
    attention = fields.attention("head_dim", qkv_bias=bias, output_bias=bias, qk_norm=version != "Gemma2")
    fourth = version == "Gemma4"
    experts = fourth and fields.boolean("enable_moe_block", default=False)
    return Architecture(
        **fields.common(version.lower()) | {"tied_embeddings": True},
        layers=tuple(
            Layer(attention=True, window=window, mlp=True, moe=experts, norms=7 if experts else 4) for window in windows
        ),
        attention=_full(fields, attention) if fourth else attention,
        state=None,
        mlp=fields.mlp(),
        moe=_experts(fields) if experts else None,
        window=fields.integer("sliding_window") if any(windows) else None,
        window_attention=attention if fourth else None,
    )


def _full(fields: Fields, window: Attention) -> Attention:
    """The full attention of Gemma 4, which has other heads. Source: vLLM transformers_utils/configs/gemma4.py."""
    for name in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
        if fields.integer(name, default=0, minimum=0):
            fields.fail(name, f"is {fields.get(name)}", "0: shared caches and per-layer inputs are not supported")
    full = replace(window, head_dim=fields.integer("global_head_dim", default=window.head_dim))
    if fields.boolean("attention_k_eq_v", default=False):
        full = replace(full, kv_heads=fields.integer("num_global_key_value_heads", default=window.kv_heads))
    return full


def _experts(fields: Fields) -> Moe:
    return Moe(
        experts=fields.integer("num_experts"),
        experts_per_token=fields.integer("top_k_experts"),
        intermediate=fields.integer("moe_intermediate_size", "expert_intermediate_size"),
        matrices=3,
        router_scales=True,
    )


def _windows(fields: Fields, every: int) -> list[bool]:
    """As listed, else full attention in every n-th layer."""
    if fields.get("layer_types") is None:
        every = fields.integer("sliding_window_pattern", "_sliding_window_pattern", default=every)
        return [(index + 1) % every != 0 for index in range(fields.layer_count)]
    kinds = fields.names("layer_types")
    if len(kinds) != fields.layer_count:
        fields.fail("num_hidden_layers", "differs from the length of layer_types", str(len(kinds)))
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            fields.fail("layer_types", f"contains {kind!r}", "one of sliding_attention, full_attention")
    return [kind == "sliding_attention" for kind in kinds]
