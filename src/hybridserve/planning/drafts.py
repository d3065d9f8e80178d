"""The drafts of speculative decoding that an engine loads: its own MTP layers, or another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridserve.errors import ConfigError
from hybridserve.planning.models import Architecture
from hybridserve.settings.engine import EngineSection

# Methods that load no weights and have no cache.
NO_DRAFT_MODEL = ("ngram", "ngram_gpu", "suffix")


def with_drafts(engine: EngineSection, arch: Architecture) -> Architecture:
    """The architecture with the draft that speculative decoding loads.

    Raises:
        ConfigError: a draft in a pipeline, which is not planned, or MTP layers that the checkpoint does not have.
        CatalogError: the config of a draft model cannot be read.
    """
    config = engine.speculative_config
    if not config:
        return arch
    tokens = speculative_tokens(config)
    method = str(config.get("method") or ("draft_model" if config.get("model") else ""))
    if method in NO_DRAFT_MODEL:
        return arch
    if engine.pipeline_parallel_size > 1:
        raise ConfigError(
            "engine.speculative_config.method", "a draft with pipeline stages is not planned", "one stage"
        )
    if (method == "mtp" or method.endswith("_mtp")) and (arch.mtp or not config.get("model")):
        return with_mtp(arch, tokens)
    name = config.get("model") or method
    if isinstance(config.get("model"), str) and Path(config["model"]).is_dir():
        return _with_model(arch, config["model"], method)
    return replace(arch, uncounted=(*arch.uncounted, f"the draft model {name}: its weights, cache layers and groups"))


def with_mtp(arch: Architecture, tokens: int) -> Architecture:
    """The architecture with its own MTP layers as draft of `tokens` tokens.

    Raises:
        ConfigError: it has none, or not for so many tokens. Source: vLLM config/speculative.py `__post_init__`.
    """
    if not arch.mtp:
        raise ConfigError(
            "engine.speculative_config.method",
            f"Unsupported speculative method: 'mtp' ({arch.name} without MTP layers in config.json)",
            "ngram, a draft model, or the config.json of a checkpoint with MTP layers",
        )
    modules = sum(layer.attention for layer in arch.mtp)
    if tokens > modules and tokens % modules:
        raise ConfigError(
            "engine.speculative_config.num_speculative_tokens",
            f"num_speculative_tokens:{tokens} must be divisible by n_predict={modules}",
            f"at most {modules}, or a multiple of it",
        )
    return replace(arch, uses_mtp=True)


def speculative_tokens(config: Mapping[str, Any]) -> int:
    """Draft tokens of one step.

    Raises:
        ConfigError: it is not a number of tokens.
    """
    count = config.get("num_speculative_tokens") if config else 0
    if isinstance(count, bool) or not isinstance(count, int) or (config and count < 1):
        what = "is missing" if count is None else f"is {count!r}"
        raise ConfigError("engine.speculative_config.num_speculative_tokens", what, "set an integer of at least 1")
    return count


def _with_model(arch: Architecture, folder: str, method: str) -> Architecture:
    # Drafts are rare, and these modules take time to load.
    from hybridserve.catalog.checkpoint import checkpoint_size
    from hybridserve.catalog.models import resolve_model
    from hybridserve.planning.models.draft import read_draft, with_draft
    from hybridserve.planning.models.fields import Fields

    found = resolve_model(folder)
    draft = read_draft(Fields(found.config), method, arch)
    size = checkpoint_size(found.folder) if found.folder else None
    return with_draft(arch, replace(draft, bytes=size.bytes if size else None), folder)
