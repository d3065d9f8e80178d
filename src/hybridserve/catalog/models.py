"""Model cards: facts about a model with source and date, one YAML file per model.

`resolve_model` accepts the id or Hugging Face repository of a card, a folder with config.json, or a config.json.
"""

import difflib
import json
import re
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hybridserve import yamlio
from hybridserve.errors import CatalogError
from hybridserve.fast_dataclass import dataclass
from hybridserve.validation import from_validation, refused

_CARDS = Path(__file__).with_name("models")
_PACKAGE = Path(__file__).parent.parent

DTYPE = Literal["float32", "float16", "bfloat16"]


class Fact(BaseModel):
    """Base of the sections of a card: the source, the date it was read, and the uncertain fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)

    source: str
    read: date
    uncertain: tuple[str, ...] = ()
    """Fields of this section that no primary source confirms."""
    note: str | None = None


class ConfigFacts(Fact):
    """The fields of config.json that the planner reads: inline, in a folder of this package, or of another card."""

    values: dict[str, Any] | None = None
    same_as: str | None = None
    """Id of the card with the same architecture."""
    quantization_config: dict[str, Any] | None = None
    """How the checkpoint is quantized, where its architecture is that of another card."""
    folder: str | None = None
    """Folder inside the package that holds config.json."""

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        given = [name for name in ("values", "same_as", "folder") if getattr(self, name) is not None]
        if len(given) != 1:
            raise refused(f"has {' and '.join(given) or 'no fields'}", "give one of values, same_as, folder")
        return self


class WeightFacts(Fact):
    """The checkpoint's weights."""

    quantization: Literal["none", "fp8", "nvfp4"] = "none"
    bytes: int | None = None
    """Published or measured size of the weights; None is unknown (the planner then counts parameters)."""
    parameters: int | None = None
    """Published or counted; if None, the planner counts them."""
    active_parameters: int | None = None


class Sampling(BaseModel):
    """Recommended sampling in one reasoning mode."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    temperature: float
    top_p: float | None = None
    top_k: int | None = None


class ServingFacts(Fact):
    """How to serve the model. Parser names are vLLM's; None is "none in vLLM" or unknown."""

    kind: Literal["chat", "base", "vision-chat"]
    min_vllm: str | None = None
    reasoning_parser: str | None = None
    reasoning_switch: Literal["template", "system", "none"] | None = None
    """How reasoning is switched: the template's `enable_thinking`, /think and /no_think in a system message, or not
    at all."""
    tool_call_parser: str | None = None
    parser_plugin: str | None = None
    """What to install where vLLM has no parser for the model's tool calls."""
    trust_remote_code: bool = False
    mamba_ssm_cache_dtype: DTYPE | None = None
    max_model_len: int | None = None
    """Default context, if it differs from the longest of config.json."""
    language_model_only: bool = False
    sampling: dict[Literal["reasoning", "plain"], Sampling] = Field(default_factory=dict)


class ModelCard(BaseModel):
    """One model. Its license is a separate entry under the same id."""

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
    """A resolved model: its card if there is one, its config.json, and its folder if it is local."""

    id: str
    card: ModelCard | None
    config: dict[str, Any]
    folder: Path | None


def model_ids() -> tuple[str, ...]:
    """Ids of all cards, sorted. Reads file names only."""
    return tuple(sorted(path.stem for path in _CARDS.glob("*.yaml")))


def load_card(model_id: str) -> ModelCard:
    """The card with that id.

    Raises:
        CatalogError: no such card, or a card that does not match the schema.
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

    A card takes precedence over a folder of the same name: write ``./demo`` for the folder.

    Raises:
        CatalogError: not found, or an invalid file; the fix lists close ids.
    """
    if id_or_path in model_ids():
        return _resolve_card(load_card(id_or_path))
    try:
        path = Path(id_or_path).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError):  # file name too long; ~unknown_user
        raise _unknown(id_or_path) from None
    if is_file:
        return ResolvedModel(
            path.stem if path.name != "config.json" else path.resolve().parent.name, None, _read(path), path.parent
        )
    if is_folder:
        return ResolvedModel(path.resolve().name, None, read_config(path), path)
    for card in map(load_card, model_ids()):
        if id_or_path.lower() in {name.lower() for name in (card.repository, *card.aliases) if name}:
            return _resolve_card(card)
    raise _unknown(id_or_path)


def described_model(model_id: str, config: dict[str, Any]) -> ResolvedModel:
    """A model whose config.json is known from elsewhere; its card, if the catalog has one of this id."""
    return ResolvedModel(model_id, load_card(model_id) if model_id in model_ids() else None, config, None)


def _resolve_card(card: ModelCard) -> ResolvedModel:
    facts, folder = card.config, None
    if facts.same_as is not None:
        values = load_card(facts.same_as).config.values
    elif facts.folder is not None:
        folder = _PACKAGE / facts.folder
        values = read_config(folder)
    else:
        values = facts.values
    assert values is not None
    quantized = {"quantization_config": facts.quantization_config} if facts.quantization_config else {}
    return ResolvedModel(card.id, card, {**values, **quantized}, folder)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint, with ModelOpt's hf_quant_config.json where vLLM reads that.

    Source: vLLM transformers_utils/config.py and model_loader/weight_utils.py, get_quant_config.
    """
    config, separate = _read(folder / "config.json"), folder / "hf_quant_config.json"
    stated = config.get("quantization_config")
    listed = (
        isinstance(stated, dict) and stated.get("quant_algo") == "MIXED_PRECISION" and "quantized_layers" not in stated
    )
    if (stated is None or listed) and separate.is_file():
        config["quantization_config"] = {**(stated or {}), **_read(separate)}
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CatalogError(str(path), "no such file", "give a folder with the checkpoint's config.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CatalogError(str(path), f"is not valid JSON: {error}", "use the complete config.json") from None
    if not isinstance(content, dict):
        raise CatalogError(str(path), "is not a JSON object", "use the config.json of the checkpoint")
    return content


def _unknown(name: str) -> CatalogError:
    listed = "hybridserve plan --list has the models of the catalog"
    if name.startswith((".", "/", "~")):
        return CatalogError(
            "model.id", f"there is no folder or file {name}", f"give a folder with config.json; {listed}"
        )
    repository = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)
    close = difflib.get_close_matches(name.lower().rpartition("/")[2], model_ids(), n=3, cutoff=0.5)
    if repository:
        folder = name.rpartition("/")[2]
        similar = f"; nearest names in the catalog: {', '.join(close)}" if close else ""
        fix = f"hf download {name} config.json --local-dir {folder}, then plan ./{folder}{similar}"
        return CatalogError("model.id", f"there is no folder {name}, and the catalog has no such repository", fix)
    return CatalogError(
        "model.id",
        f"no model, folder or config.json named {name!r}",
        f"did you mean {', '.join(close)}?" if close else f"{listed}; or give a folder with config.json",
    )
