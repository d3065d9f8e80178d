"""Transformers with sliding windows in most layers: gpt-oss, Gemma 3. Baselines for hybrids of similar size."""

from __future__ import annotations

from hybridserve.planning.models.architecture import Architecture, Layer
from hybridserve.planning.models.fields import Fields
from hybridserve.planning.models.vision import NOT_READ


def read(fields: Fields) -> Architecture:
    """The architecture of a gpt-oss or Gemma 3 model; Gemma 3 with its vision encoder has `text_config`."""
    name = fields.architecture
    if vision := name == "Gemma3ForConditionalGeneration":
        fields = fields.part("text_config")
    if gpt_oss := name == "GptOssForCausalLM":
        # The published config names no type; vLLM finds bfloat16 in the weights.
        fields = fields if fields.get("torch_dtype") else fields.with_default("dtype", "bfloat16")
    windows = _alternating(fields) if gpt_oss else _listed(fields)
    if all(windows):
        fields.fail("layer_types", "has sliding windows only", "a model with full attention in some layers")
    bias = fields.boolean("attention_bias", default=gpt_oss)
    return Architecture(
        **fields.common("gpt_oss" if gpt_oss else "gemma3") | ({} if gpt_oss else {"tied_embeddings": True}),
        layers=tuple(
            Layer(attention=True, window=window, mlp=not gpt_oss, moe=gpt_oss, norms=2 if gpt_oss else 4)
            for window in windows
        ),
        attention=fields.attention("head_dim", qkv_bias=bias, output_bias=bias, qk_norm=not gpt_oss),
        state=None,
        mlp=None if gpt_oss else fields.mlp(),
        moe=fields.moe("intermediate_size", bias=True) if gpt_oss else None,
        window=fields.integer("sliding_window") if any(windows) else None,
        **NOT_READ if vision else {},
    )


def _alternating(fields: Fields) -> list[bool]:
    """vLLM's gpt-oss has a window in every other layer, whatever the config lists."""
    return [index % 2 == 0 for index in range(fields.layer_count)]


def _listed(fields: Fields) -> list[bool]:
    """As listed, else full attention in every n-th layer."""
    if fields.get("layer_types") is None:
        every = fields.integer("sliding_window_pattern", "_sliding_window_pattern", default=6)
        return [(index + 1) % every != 0 for index in range(fields.layer_count)]
    kinds = fields.names("layer_types")
    if len(kinds) != fields.layer_count:
        fields.fail("num_hidden_layers", "differs from the length of layer_types", str(len(kinds)))
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            fields.fail("layer_types", f"contains {kind!r}", "one of sliding_attention, full_attention")
    return [kind == "sliding_attention" for kind in kinds]
