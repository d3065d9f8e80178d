"""Draft models of speculative decoding that are checkpoints of their own: EAGLE, DFlash, a small language model."""

from __future__ import annotations

from dataclasses import replace

from hybridserve.planning.models.architecture import Architecture, Draft, Layer
from hybridserve.planning.models.fields import Fields

# Methods whose draft uses the tables of the model instead of its own.
SHARE_TABLES = ("eagle", "eagle3", "dflash", "dspark", "peagle")


def read_draft(fields: Fields, method: str, target: Architecture) -> Draft:
    """The layers of a draft model, all of them with attention. Weights are counted without what the method adds.

    Raises:
        CatalogError: a field is missing or wrong.
    """
    kinds = fields.get("layer_types")
    windowed = fields.get("sliding_window") is not None and fields.boolean("use_sliding_window", default=True)
    if kinds is None:
        windows = [windowed] * fields.layer_count
    else:
        windows = [kind == "sliding_attention" for kind in fields.names("layer_types")]
    attention, mlp, hidden = fields.attention("head_dim"), fields.mlp(), fields.integer("hidden_size")
    per_layer = hidden * attention.head_dim * 2 * (attention.heads + attention.kv_heads)
    per_layer += mlp.matrices * hidden * mlp.intermediate + 2 * hidden
    parameters = len(windows) * per_layer + hidden
    if method in SHARE_TABLES:
        # The projection of three hidden states of the model.
        parameters += 3 * target.hidden * hidden
    else:
        parameters += 2 * fields.integer("vocab_size") * hidden
    return Draft(
        tuple(Layer(attention=True, window=window, mlp=True, norms=2) for window in windows),
        attention,
        fields.integer("sliding_window") if any(windows) else None,
        parameters,
    )


def with_draft(target: Architecture, draft: Draft, name: str) -> Architecture:
    """The model with a draft; its cache is counted if it fits the model's pages, and else named as not counted.

    A window layer has a page of the same size if keys and values have; other layers must have the model's shape.
    """
    mine, theirs = target.attention, draft.attention
    same_page = mine is not None and mine.kv_heads * mine.head_dim == theirs.kv_heads * theirs.head_dim
    same_shape = mine is not None and (mine.kv_heads, mine.head_dim) == (theirs.kv_heads, theirs.head_dim)
    windows = {layer.window for layer in draft.layers}
    if (windows == {True} and same_page and target.window is None) or (windows == {False} and same_shape):
        return replace(target, draft=draft, window=draft.window or target.window)
    part = f"the cache of the draft model {name}, whose layers have another shape"
    return replace(target, draft=replace(draft, layers=()), uncounted=(*target.uncounted, part))
