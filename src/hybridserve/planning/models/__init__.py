"""Read config.json into an `Architecture`: one module per model family."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hybridserve.errors import CatalogError
from hybridserve.planning.models.architecture import (
    Architecture,
    Attention,
    Dtype,
    GatedDeltaNet,
    KimiDelta,
    Layer,
    Lightning,
    Mamba1,
    Mamba2,
    Mlp,
    Moe,
    ShortConv,
    StateMixer,
)
from hybridserve.planning.models.fields import Fields
from hybridserve.planning.models.quantization import read_precision

__all__ = [
    "Architecture",
    "Attention",
    "Dtype",
    "GatedDeltaNet",
    "KimiDelta",
    "Layer",
    "Lightning",
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
    "NemotronH_Nano_VL_V2": "nemotron_h",
    "NemotronH_Nano_Omni_Reasoning_V3": "nemotron_h",
    "NemotronH_Super_Omni_Reasoning_V3": "nemotron_h",
    "NemotronH_Omni_Reasoning_V3": "nemotron_h",
    "GraniteMoeHybridForCausalLM": "granite_hybrid",
    "FalconH1ForCausalLM": "falcon_h1",
    "Qwen3NextForCausalLM": "gated_delta_net",
    "Qwen3_5ForCausalLM": "gated_delta_net",
    "Qwen3_5MoeForCausalLM": "gated_delta_net",
    "Qwen3_5ForConditionalGeneration": "gated_delta_net",
    "Qwen3_5MoeForConditionalGeneration": "gated_delta_net",
    "InternS2PreviewForConditionalGeneration": "gated_delta_net",
    "MiniCPMV4_6ForConditionalGeneration": "gated_delta_net",
    "JambaForCausalLM": "jamba",
    "Lfm2ForCausalLM": "lfm2",
    "Lfm2MoeForCausalLM": "lfm2",
    "Lfm2VlForConditionalGeneration": "lfm2",
    "OlmoHybridForCausalLM": "olmo_hybrid",
    "Zamba2ForCausalLM": "zamba2",
    "KimiLinearForCausalLM": "kimi_linear",
    "KimiK3ForConditionalGeneration": "kimi_linear",
    "BailingMoeV2_5ForCausalLM": "bailing_hybrid",
    "BailingMoeV3ForCausalLM": "bailing_hybrid",
    "MambaForCausalLM": "mamba",
    "FalconMambaForCausalLM": "mamba",
    "Mamba2ForCausalLM": "mamba",
    "GptOssForCausalLM": "sliding_window",
    "Gemma2ForCausalLM": "sliding_window",
    "Gemma3ForCausalLM": "sliding_window",
    "Gemma3ForConditionalGeneration": "sliding_window",
    "Gemma4ForCausalLM": "gemma4",
    "Gemma4ForConditionalGeneration": "gemma4",
    "Gemma4UnifiedForConditionalGeneration": "gemma4",
    "LlamaForCausalLM": "transformer",
    "MistralForCausalLM": "transformer",
    "Qwen2ForCausalLM": "transformer",
    "Qwen3ForCausalLM": "transformer",
    "Qwen3MoeForCausalLM": "transformer",
}
_PUZZLE = "its layers differ in shape (Puzzle), and only the checkpoint's own code states how; not supported"
_MLA = "its attention is latent (MLA), which is not supported"
_STATES = "it has several state layouts of different sizes, which are not supported"
_POOLING = "it is a pooling model, which does not generate"


def _removed(version: str) -> str:
    return f"it was supported in vLLM until v{version}, and is not supported anymore"


# Every class of vLLM 0.29's registry that has state or no attention, and that no reader reads; and well-known others.
OUT_OF_SCOPE = {
    "NemotronHPuzzleForCausalLM": _PUZZLE,
    "DeepseekV2ForCausalLM": _MLA,
    "DeepseekV3ForCausalLM": _MLA,
    "Terratorch": _POOLING,
    "ColBERTLfm2Model": _POOLING,
    "ColQwen3_5": _POOLING,
    "JambaForSequenceClassification": _POOLING,
    "Qwen4ExpForCausalLM": _STATES,
    "Qwen4ExpForConditionalGeneration": _STATES,
    "InternS2MobiusForConditionalGeneration": "its layers share banks of experts, which are not counted",
    "BambaForCausalLM": _removed("0.23.0"),
    "MiniMaxForCausalLM": _removed("0.23.0"),
    "MiniMaxText01ForCausalLM": _removed("0.23.0"),
    "MiniMaxM1ForCausalLM": _removed("0.23.0"),
    "MiniMaxVL01ForConditionalGeneration": _removed("0.23.0"),
    "Plamo2ForCausalLM": _removed("0.26.0"),
    "Phi4FlashForCausalLM": _removed("0.10.2"),
}


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a Hugging Face `config.json` describes, with old and new field names.

    Raises:
        CatalogError: a field is missing or wrong, or the model is not supported.
    """
    fields = Fields(config)
    names = fields.names("architectures")
    name = names[0]
    if name in OUT_OF_SCOPE:
        raise CatalogError("config.json: architectures", f"{name}: {OUT_OF_SCOPE[name]}", _CHOICE)
    if name not in READERS:
        raise CatalogError("config.json: architectures", f"{name} is not supported", _CHOICE)
    return _read(fields)


def _read(fields: Fields) -> Architecture:
    reader = importlib.import_module(f"{__name__}.{READERS[fields.architecture]}")
    arch: Architecture = reader.read(fields)
    if (attention := arch.attention) is not None and attention.heads % attention.kv_heads:
        raise CatalogError(
            "config.json: num_key_value_heads",
            # The engine's own message, from its attention layer.
            f"num_heads ({attention.heads}) is not divisible by num_kv_heads ({attention.kv_heads})",
            "a number that divides num_attention_heads",
        )
    if arch.moe is not None and arch.moe.experts_per_token > arch.moe.experts:
        raise CatalogError(
            "config.json: num_experts_per_tok",
            f"is {arch.moe.experts_per_token}, of {arch.moe.experts} experts",
            f"at most {arch.moe.experts}",
        )
    precision = read_precision(fields.config, len(arch.layers))
    return replace(arch, precision=precision, kv_cache_dtype=precision.kv_cache_dtype)


_CHOICE = f"one of {', '.join(READERS)}"
