"""Read config.json into an `Architecture`: one module per model family."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from hybridserve.errors import CatalogError
from hybridserve.planning.models.architecture import (
    Architecture,
    Attention,
    Dtype,
    GatedDeltaNet,
    Layer,
    Mamba1,
    Mamba2,
    Mlp,
    Moe,
    ShortConv,
    StateMixer,
)
from hybridserve.planning.models.fields import Fields

__all__ = [
    "Architecture",
    "Attention",
    "Dtype",
    "GatedDeltaNet",
    "Layer",
    "Mamba1",
    "Mamba2",
    "Mlp",
    "Moe",
    "ShortConv",
    "StateMixer",
    "read_architecture",
]

# Architecture -> module of this package with a function `read`.
READERS = {
    "NemotronHForCausalLM": "nemotron_h",
    "GraniteMoeHybridForCausalLM": "granite_hybrid",
    "FalconH1ForCausalLM": "falcon_h1",
    "Qwen3NextForCausalLM": "gated_delta_net",
    "Qwen3_5ForCausalLM": "gated_delta_net",
    "Qwen3_5MoeForCausalLM": "gated_delta_net",
    "Qwen3_5ForConditionalGeneration": "gated_delta_net",
    "Qwen3_5MoeForConditionalGeneration": "gated_delta_net",
    "JambaForCausalLM": "jamba",
    "Lfm2ForCausalLM": "lfm2",
    "Lfm2MoeForCausalLM": "lfm2",
    "OlmoHybridForCausalLM": "olmo_hybrid",
    "Zamba2ForCausalLM": "zamba2",
    "LlamaForCausalLM": "transformer",
    "MistralForCausalLM": "transformer",
    "Qwen2ForCausalLM": "transformer",
    "Qwen3ForCausalLM": "transformer",
    "Qwen3MoeForCausalLM": "transformer",
}
# A model that wraps a language model, whose config is under one of these keys.
WRAPPERS = {"NemotronH_Nano_VL_V2": ("text_config", "llm_config")}
OUT_OF_SCOPE = {
    "NemotronHPuzzleForCausalLM": "its layers differ in shape (Puzzle), which is not supported",
    "DeepseekV2ForCausalLM": "latent attention (MLA) is not supported",
    "DeepseekV3ForCausalLM": "latent attention (MLA) is not supported",
    "KimiLinearForCausalLM": "latent attention (MLA) is not supported",
}


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a Hugging Face `config.json` describes, with old and new field names.

    Raises:
        CatalogError: a field is missing or wrong, or the model is not supported.
    """
    fields = Fields(config)
    names = fields.names("architectures")
    name = names[0]
    for key in WRAPPERS.get(name, ()):
        if isinstance(part := config.get(key), Mapping):
            return read_architecture({"architectures": ["NemotronHForCausalLM"], **part})
    if name in OUT_OF_SCOPE:
        raise CatalogError("config.json: architectures", f"{name}: {OUT_OF_SCOPE[name]}", _CHOICE)
    if name not in READERS:
        raise CatalogError("config.json: architectures", f"{name} is not supported", _CHOICE)
    reader = importlib.import_module(f"{__name__}.{READERS[name]}")
    arch: Architecture = reader.read(fields)
    if (attention := arch.attention) is not None and attention.heads % attention.kv_heads:
        raise CatalogError(
            "config.json: num_key_value_heads",
            # The engine's own message, from its attention layer.
            f"num_heads ({attention.heads}) is not divisible by num_kv_heads ({attention.kv_heads})",
            "a number that divides num_attention_heads",
        )
    return arch


_CHOICE = f"one of {', '.join(READERS)}"
