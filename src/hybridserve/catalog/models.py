"""Model cards: what we know about a model, from where, and when it was read. One YAML file a model.

`resolve_model` takes a card's id, the Hugging Face repository of a card, a folder with config.json or a config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DTYPE = Literal["float32", "float16", "bfloat16"]


class Fact(BaseModel):
    """Base of every section of a card: where it was read, when, and which of its fields are not certain."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    source: str
    read: date
    uncertain: tuple[str, ...] = ()
    """Fields of this section that a primary source has not confirmed."""
    note: str | None = None


class ConfigFacts(Fact):
    """config.json, as far as the planner reads it: in place, in a folder of this package, or another card's."""

    values: dict[str, Any] | None = None
    same_as: str | None = None
    """Id of the card with the same architecture."""
    folder: str | None = None
    """Folder inside the package that holds config.json."""


class WeightFacts(Fact):
    """The checkpoint's weights."""

    quantization: Literal["none", "fp8", "nvfp4"] = "none"
    bytes: int | None = None
    """Published or measured size of the weights; None means unknown (the planner then counts parameters)."""
    parameters: int | None = None
    active_parameters: int | None = None


class Sampling(BaseModel):
    """Recommended sampling in one reasoning mode."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float
    top_p: float | None = None
    top_k: int | None = None


class ServingFacts(Fact):
    """How the model wants to be served. Parser names are vLLM's; None is "none shipped with vLLM" or unknown."""

    kind: Literal["chat", "base", "vision-chat"]
    min_vllm: str | None = None
    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    trust_remote_code: bool = False
    mamba_ssm_cache_dtype: DTYPE | None = None
    max_model_len: int | None = None
    """Default served context, where it differs from config.json's longest."""
    language_model_only: bool = False
    sampling: dict[Literal["reasoning", "plain"], Sampling] = Field(default_factory=dict)


class ModelCard(BaseModel):
    """One model. Its licence is kept apart, under the same id."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    id: str
    name: str
    repository: str | None
    """Hugging Face repository; None for a model that is not published there."""
    revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
    aliases: tuple[str, ...] = ()
    config: ConfigFacts
    weights: WeightFacts
    serving: ServingFacts


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that was asked for: its card where there is one, its config.json, its folder where it is local."""

    id: str
    card: ModelCard | None
    config: dict[str, Any]
    folder: Path | None


def model_ids() -> tuple[str, ...]:
    """Ids of all cards, sorted. Reads file names only."""
    raise NotImplementedError


def resolve_model(id_or_path: str) -> ResolvedModel:
    """The model behind a card id, a repository name, a folder or a config.json.

    Raises:
        CatalogError: nothing of that name, or a broken file; the fix lists close ids.
    """
    raise NotImplementedError
