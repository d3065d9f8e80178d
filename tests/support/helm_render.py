"""What `hybridserve render helm` makes of a tree of settings for Nemotron Nano 9B v2 on an L40S."""

from __future__ import annotations

from typing import Any

from hybridserve.cli.helm_needs import needs
from hybridserve.cli.helm_values import helm_values
from hybridserve.planning.resolve import plan_settings
from hybridserve.settings import Settings

NANO: dict[str, Any] = {"model": {"id": "nemotron-nano-9b-v2"}, "accelerator": {"name": "l40s"}}
GUARD = {"kind": "model", "model": "Qwen/Qwen3Guard-Gen-4B", "format": "qwen3guard"}


def values_of(*trees: dict[str, Any], **options: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for tree in (NANO, *trees):
        for section, content in tree.items():
            merged[section] = merged.get(section, {}) | content
    return helm_values(Settings.model_validate(merged), **options)


def all_needs_of(tree: dict[str, Any], **options: Any) -> list[str]:
    planned = plan_settings(Settings.model_validate(NANO | tree))
    return needs(helm_values(planned.settings, planned=planned, **options), planned)


def needs_of(tree: dict[str, Any], **options: Any) -> list[str]:
    """Without the line about images, which every release has."""
    return [line for line in all_needs_of(tree, **options) if not line.startswith(("image", "check.image"))]
