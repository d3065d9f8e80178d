"""From config.json to `Architecture`: one module a family of models."""

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
    "StateMixer",
    "read_architecture",
]

# Architecture -> module of this package with a function `read`.
READERS = {
    "NemotronHForCausalLM": "nemotron_h",
    "GraniteMoeHybridForCausalLM": "granite_hybrid",
    "FalconH1ForCausalLM": "falcon_h1",
    "Qwen3NextForCausalLM": "qwen3_next",
    "JambaForCausalLM": "jamba",
    "LlamaForCausalLM": "transformer",
    "MistralForCausalLM": "transformer",
    "Qwen2ForCausalLM": "transformer",
    "Qwen3ForCausalLM": "transformer",
    "Qwen3MoeForCausalLM": "transformer",
}
# A model around a language model: the architecture is that of the part, found under one of these keys.
WRAPPERS = {"NemotronH_Nano_VL_V2": ("text_config", "llm_config")}
OUT_OF_SCOPE = {
    "NemotronHPuzzleForCausalLM": "its layers differ in shape (Puzzle); the planner knows one shape per kind of layer",
    "DeepseekV2ForCausalLM": "latent attention (MLA) is not covered",
    "DeepseekV3ForCausalLM": "latent attention (MLA) is not covered",
    "KimiLinearForCausalLM": "latent attention (MLA) is not covered",
}


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture a Hugging Face `config.json` describes, in old and in new spellings.

    Raises:
        CatalogError: a field is missing or wrong (it is named), or the model is outside the planner's scope.
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
        raise CatalogError("config.json: architectures", f"{name} has no reader", _CHOICE)
    reader = importlib.import_module(f"{__name__}.{READERS[name]}")
    arch: Architecture = reader.read(fields)
    if (attention := arch.attention) is not None and attention.heads % attention.kv_heads:
        raise CatalogError(
            "config.json: num_key_value_heads",
            # The engine's own words, from its attention layer.
            f"num_heads ({attention.heads}) is not divisible by num_kv_heads ({attention.kv_heads})",
            "a number that divides num_attention_heads",
        )
    return arch


_CHOICE = f"one of {', '.join(READERS)}"
