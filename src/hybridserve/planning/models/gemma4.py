"""Gemma 4: sliding windows with other heads than full attention, caches shared between layers, per-layer embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hybridserve.planning.models.architecture import Architecture, Attention, Layer, Moe
from hybridserve.planning.models.fields import Fields
from hybridserve.planning.models.sliding_window import VISION, windowed
from hybridserve.planning.models.vision import NOT_READ

# Defaults of transformers' Gemma4TextConfig.
FULL_HEAD_DIM, EMBEDDING, ROWS = 512, 256, 262_144


def read(fields: Fields) -> Architecture:
    """The architecture of a Gemma 4; with an encoder, that of its `text_config`. Source: vLLM models/gemma4.py."""
    if not fields.architecture.endswith(VISION):
        return _text(fields, EMBEDDING)
    # The unified model has no such embeddings.
    unified = fields.architecture.startswith("Gemma4Unified")
    return replace(_text(fields.part("text_config"), 0 if unified else EMBEDDING), **NOT_READ)


def _text(fields: Fields, embedding: int) -> Architecture:
    windows = windowed(fields, every=6)
    # Whatever the config lists. Source: transformers configuration_gemma4.py.
    windows[-1] = False
    first_shared = _first_shared(fields, windows)
    moe = fields.boolean("enable_moe_block", default=False)
    bias = fields.boolean("attention_bias", default=False)
    attention = fields.attention("head_dim", qkv_bias=bias, output_bias=bias, qk_norm=True)
    inputs = fields.integer("hidden_size_per_layer_input", default=embedding, minimum=0)
    wide = fields.boolean("use_double_wide_mlp", default=False) and first_shared < len(windows)
    return Architecture(
        **fields.common("gemma4") | {"tied_embeddings": fields.boolean("tie_word_embeddings", default=True)},
        layers=tuple(
            Layer(
                attention=True,
                window=window,
                shared=index >= first_shared,
                mlp=True,
                moe=moe,
                norms=(7 if moe else 4) + bool(inputs),
            )
            for index, window in enumerate(windows)
        ),
        attention=_full(fields, windows, attention),
        state=None,
        mlp=replace(fields.mlp(), wide_if_shared=wide),
        moe=_experts(fields) if moe else None,
        window=_window(fields) if any(windows) else None,
        window_attention=attention,
        per_layer_input=inputs,
        per_layer_vocab=fields.integer("vocab_size_per_layer_input", default=ROWS) if inputs else 0,
    )


def _first_shared(fields: Fields, windows: list[bool]) -> int:
    """Index of the first layer without a cache of its own."""
    first = len(windows) - fields.integer("num_kv_shared_layers", default=0, minimum=0)
    for window in set(windows) - set(windows[: max(first, 0)]):
        fields.fail(
            "num_kv_shared_layers",
            f"is {len(windows) - first}: no {'sliding' if window else 'full'}_attention layer has a cache of its own",
            "a number that leaves a layer of each kind before those that share",
        )
    return first


def _full(fields: Fields, windows: list[bool], window: Attention) -> Attention:
    """The full attention, which has other heads: flat fields, or transformers' per_layer_config since 5.15."""
    listed = fields.get("per_layer_config")
    if listed is None:
        size = fields.integer("global_head_dim", default=FULL_HEAD_DIM)
        if not fields.boolean("attention_k_eq_v", default=False):
            return replace(window, head_dim=size)
        return replace(
            window,
            head_dim=size,
            kv_heads=fields.integer("num_global_key_value_heads", default=window.kv_heads),
        )
    parts = [_changes(fields, listed, index) for index in range(len(windows))]
    full = [part for part, windowed in zip(parts, windows, strict=True) if not windowed]
    if any(part != ({} if windowed else full[0]) for part, windowed in zip(parts, windows, strict=True)):
        fields.fail("per_layer_config", "differs among layers of a kind", "the same heads in all full attention layers")
    return replace(
        window,
        head_dim=full[0].get("head_dim", window.head_dim),
        kv_heads=full[0].get("num_key_value_heads", window.kv_heads),
    )


def _changes(fields: Fields, listed: Any, index: int) -> dict[str, int]:
    """What a layer's attention has otherwise than the model's."""
    found = listed.get(str(index), {}) if isinstance(listed, Mapping) else None
    if not isinstance(found, Mapping) or set(found) - {"head_dim", "num_key_value_heads"}:
        fields.fail("per_layer_config", f"has {found!r} for layer {index}", "head_dim and num_key_value_heads by layer")
    return {name: Fields(found).integer(name) for name in found}


def _window(fields: Fields) -> int:
    size = fields.integer("sliding_window")
    # Source: transformers configuration_gemma4.py.
    return size // 2 + 1 if fields.get("use_bidirectional_attention") == "all" else size


def _experts(fields: Fields) -> Moe:
    return Moe(
        experts=fields.integer("num_experts"),
        experts_per_token=fields.integer("top_k_experts"),
        intermediate=fields.integer("moe_intermediate_size", "expert_intermediate_size"),
        matrices=3,
        router_scales=True,
    )
