"""Model cards: what we know about a model, from where, and when it was read. One YAML file a model.

`resolve_model` takes a card's id, the Hugging Face repository of a card, a folder with config.json or a config.json.
"""

import difflib
import json
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hybridserve import yamlio
from hybridserve.errors import CatalogError, from_validation
from hybridserve.records import dataclass

_CARDS = Path(__file__).with_name("models")
_PACKAGE = Path(__file__).parent.parent

DTYPE = Literal["float32", "float16", "bfloat16"]


class Fact(BaseModel):
    """Base of every section of a card: where it was read, when, and which of its fields are not certain."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)

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

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(place is not None for place in (self.values, self.same_as, self.folder)) != 1:
            raise ValueError("give one of values, same_as, folder")
        return self


class WeightFacts(Fact):
    """The checkpoint's weights."""

    quantization: Literal["none", "fp8", "nvfp4"] = "none"
    bytes: int | None = None
    """Published or measured size of the weights; None means unknown (the planner then counts parameters)."""
    parameters: int | None = None
    """Published or counted; None is counted by the planner when it is asked for."""
    active_parameters: int | None = None


class Sampling(BaseModel):
    """Recommended sampling in one reasoning mode."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    temperature: float
    top_p: float | None = None
    top_k: int | None = None


class ServingFacts(Fact):
    """How the model wants to be served. Parser names are vLLM's; None is "none shipped with vLLM" or unknown."""

    kind: Literal["chat", "base", "vision-chat"]
    min_vllm: str | None = None
    reasoning_parser: str | None = None
    reasoning_switch: Literal["template", "system", "none"] | None = None
    """What turns reasoning on and off: the template's `enable_thinking`, /think and /no_think in a system message, or
    nothing."""
    tool_call_parser: str | None = None
    trust_remote_code: bool = False
    mamba_ssm_cache_dtype: DTYPE | None = None
    max_model_len: int | None = None
    """Default served context, where it differs from config.json's longest."""
    language_model_only: bool = False
    sampling: dict[Literal["reasoning", "plain"], Sampling] = Field(default_factory=dict)


class ModelCard(BaseModel):
    """One model. Its license is kept apart, under the same id."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)

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
    return tuple(sorted(path.stem for path in _CARDS.glob("*.yaml")))


def load_card(model_id: str) -> ModelCard:
    """The card of that id.

    Raises:
        CatalogError: no such card, or a card that does not keep to the schema.
    """
    path = _CARDS / f"{model_id}.yaml"
    if model_id not in model_ids():
        raise _unknown(model_id)
    where = f"catalog/models/{path.name}"
    try:
        card = ModelCard.model_validate(yamlio.read(path, where, "correct the card", CatalogError))
    except ValidationError as error:
        raise from_validation(error, where, "correct the card", CatalogError) from None
    if card.id != model_id:
        raise CatalogError(where, f"its id is {card.id}", f"name the file {card.id}.yaml")
    return card


def resolve_model(id_or_path: str) -> ResolvedModel:
    """The model behind a card id, a repository name, a folder with config.json, or a config.json.

    A card wins over a folder of the same name: write ``./demo`` for the folder.

    Raises:
        CatalogError: nothing of that name, or a broken file; the fix lists close ids.
    """
    if id_or_path in model_ids():
        return _resolve_card(load_card(id_or_path))
    try:
        path = Path(id_or_path).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError):  # too long for a file's name; ~nobody
        raise _unknown(id_or_path) from None
    if is_file:
        return ResolvedModel(
            path.stem if path.name != "config.json" else path.resolve().parent.name, None, _read(path), path.parent
        )
    if is_folder:
        return ResolvedModel(path.resolve().name, None, _read(path / "config.json"), path)
    for card in map(load_card, model_ids()):
        if id_or_path.lower() in {name.lower() for name in (card.repository, *card.aliases) if name}:
            return _resolve_card(card)
    raise _unknown(id_or_path)


def _resolve_card(card: ModelCard) -> ResolvedModel:
    facts, folder = card.config, None
    if facts.same_as is not None:
        values = load_card(facts.same_as).config.values
    elif facts.folder is not None:
        folder = _PACKAGE / facts.folder
        values = _read(folder / "config.json")
    else:
        values = facts.values
    assert values is not None
    return ResolvedModel(card.id, card, dict(values), folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CatalogError(str(path), "there is no such file", "a folder with the checkpoint's config.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CatalogError(str(path), f"is not readable as JSON: {error}", "take the whole config.json") from None
    if not isinstance(content, dict):
        raise CatalogError(str(path), "is not a JSON object", "take the config.json of the checkpoint")
    return content


def _unknown(name: str) -> CatalogError:
    known = model_ids()
    close = difflib.get_close_matches(name.lower().rpartition("/")[2], known, n=3, cutoff=0.5)
    return CatalogError(
        "model.id",
        f"no model, folder or config.json called {name!r}",
        f"did you mean {', '.join(close)}?" if close else f"one of {', '.join(known)}, or a folder with config.json",
    )
