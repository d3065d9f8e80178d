"""Vision encoders: their weights, and the largest image that the engine encodes while it profiles memory."""

from __future__ import annotations

from typing import Any

from hybridserve.planning.models.architecture import Tower
from hybridserve.planning.models.fields import Fields

VIDEO = "videos with more patches than the largest image"
# Pixels of the largest image of Qwen3-VL's processor (size.longest_edge in preprocessor_config.json).
MAX_PIXELS = 16_777_216
WHOLE = "the vision encoder: weights, activations and cache"
NOT_READ: dict[str, Any] = {"uncounted": (WHOLE,), "weights_counted": False}
SIZES = ("depth", "hidden_size", "intermediate_size", "out_hidden_size", "patch_size", "num_position_embeddings")


def qwen3_vision(wrapper: Fields) -> dict[str, Any]:
    """The encoder of Qwen3.5 and later as arguments of `Architecture`. Source: vLLM models/qwen3_vl.py."""
    vision = wrapper.part("vision_config")
    if any(vision.get(name) is None for name in SIZES):
        return NOT_READ
    depth, hidden, width, out, patch, positions = (vision.integer(name) for name in SIZES)
    merged = hidden * vision.integer("spatial_merge_size", default=2) ** 2
    mergers = 1 + len(vision.numbers("deepstack_visual_indexes"))
    channels, frames = vision.integer("in_channels", default=3), vision.integer("temporal_patch_size", default=2)
    patch_inputs = channels * frames * patch**2
    block = 4 * hidden * hidden + 3 * hidden + 2 * hidden * width + width
    whole = (patch_inputs + 1 + positions) * hidden + depth * 6 * hidden + 2 * hidden
    # A merger after the first normalizes the merged width.
    whole += (mergers - 1) * 2 * merged + mergers * out
    split = depth * block + mergers * (merged * merged + merged + merged * out)
    tower = Tower(
        split,
        whole,
        hidden=hidden,
        intermediate=width,
        patches_per_token=merged // hidden,
        max_patches=MAX_PIXELS // patch**2,
        heads=vision.integer("num_heads", default=1),
    )
    return {"tower": tower, "uncounted": (VIDEO,)}
