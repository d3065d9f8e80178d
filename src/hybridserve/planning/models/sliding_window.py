"""Transformers with sliding windows in most layers: gpt-oss, Gemma 2 and 3. Baselines for hybrids of similar size."""

from __future__ import annotations

from dataclasses import replace

from hybridserve.planning.models.architecture import Architecture, Layer
from hybridserve.planning.models.fields import Fields
from hybridserve.planning.models.vision import NOT_READ

VISION = "ForConditionalGeneration"
# Layers per layer of full attention where the config lists no kinds.
PATTERN = {"Gemma2": 2, "Gemma3": 6}


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
    every = fields.integer("sliding_window_pattern", "_sliding_window_pattern", default=PATTERN[version])
    windows = windowed(fields, every)
    if all(windows):
        fields.fail("layer_types", "has sliding windows only", "a model with full attention in some layers")
    bias, common = fields.boolean("attention_bias", default=False), fields.common(version.lower())
    return Architecture(
        **common | {"tied_embeddings": True, "dtype": "bfloat16" if common["dtype"] == "float16" else common["dtype"]},
        layers=tuple(Layer(attention=True, window=window, mlp=True, norms=4) for window in windows),
        attention=fields.attention("head_dim", qkv_bias=bias, output_bias=bias, qk_norm=version != "Gemma2"),
        state=None,
        mlp=fields.mlp(),
        moe=None,
        window=fields.integer("sliding_window") if any(windows) else None,
    )


def windowed(fields: Fields, every: int) -> list[bool]:
    """Which layers have a window: as listed, else all but every n-th."""
    if fields.get("layer_types") is None:
        return [(index + 1) % every != 0 for index in range(fields.layer_count)]
    kinds = fields.names("layer_types")
    if len(kinds) != fields.layer_count:
        fields.fail("num_hidden_layers", "differs from the length of layer_types", str(len(kinds)))
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            fields.fail("layer_types", f"contains {kind!r}", "one of sliding_attention, full_attention")
    return [kind == "sliding_attention" for kind in kinds]
