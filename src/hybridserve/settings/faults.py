"""What is wrong with settings, and where each wrong one came from, for a person who has to find it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from hybridserve import yamlio
from hybridserve.errors import ConfigError
from hybridserve.settings.root import ENV_DELIMITER, ENV_PREFIX, Settings
from hybridserve.units import written_in_gib, written_out
from hybridserve.validation import describe

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


# Types of quantized weights, and methods that make them.
_QUANTIZED = re.compile(r"(nv|mx)?(fp|float|int|uint|w)[48]|awq|gptq")

# Settings of earlier releases whose new name is not the most similar one.
_RENAMED = {"telemetry.slo_goodput": "slo_attainment"}

_PLAIN = re.compile(r"[a-z0-9_.-]{1,24}")


def config_error(error: ValidationError, origin: Mapping[str, str]) -> ConfigError:
    """An error for the first fault, with those for all others in `others`, so that one run shows them all.

    Args:
        origin: source of each setting that was given, by dotted path.
    """
    first, *others = [_fault(fault, origin) for fault in error.errors(include_url=False)]
    first.others = tuple(others)
    return first


def set_by(path: str, origin: Mapping[str, str]) -> str | None:
    """Where a setting came from, in words: an option, a variable, a file with its line; None for a default.

    Args:
        path: dotted path of a setting, a part of one (``license.accepted.0.by``), or a section.
        origin: source of each setting, by dotted path.
    """
    parts = path.split(".")
    source = origin.get(".".join(parts[:2])) or origin.get(parts[0])
    if source is None:  # a fault of a section as a whole
        inside = {name: source for name, source in origin.items() if name.startswith(f"{path}.")}
        given = dict.fromkeys(filter(None, (set_by(name, inside) for name in inside)))
        return " and ".join(given) or None
    kind, _, where = source.partition(" ")
    if kind == "file":
        line = yamlio.line_of(Path(where), parts)
        return f"{source}, line {line}" if line else source
    return {"flag": where, "env": f"the environment variable {where}"}.get(kind)


def _fault(fault: ErrorDetails, origin: Mapping[str, str]) -> ConfigError:
    path, value = ".".join(map(str, fault["loc"])), fault["input"]
    source = origin.get(".".join(map(str, fault["loc"][:2])), "")
    if fault["type"] == "extra_forbidden" and fault["loc"][:-1] == ("engine",) and not _typo(str(fault["loc"][-1])):
        what, fix = "is not a setting", _extra_argument(str(fault["loc"][-1]), value, source)
    elif fault["type"] == "extra_forbidden":
        what, fix = "is not a setting", _similar(fault["loc"], variable=source.startswith("env "))
    elif fault["type"] == "model_type":
        what = f"{value!r} is not a mapping"
        fix = f"write its settings below it, as KEY: VALUE: {path} has {', '.join(known_keys(*fault['loc']))}"
    else:
        what, fix = _wrong_value(path, fault)
        if path == "engine.dtype" and _QUANTIZED.match(str(value).lower()):
            fix += (
                ", the type of unquantized weights. Quantized: plan a checkpoint that is (hybridserve plan --list), or "
            )
            fix += """convert while loading with --set 'engine.extra_args={"quantization": "fp8"}'"""
    # A contradiction of some fields is not about the others of its section.
    fields = (fault.get("ctx") or {}).get("fields") or ()
    given = " and ".join(dict.fromkeys(filter(None, (set_by(f"{path}.{name}", origin) for name in fields))))
    if given := given or set_by(path, origin) or "":
        fix += f"; it was set by {given}"
    return ConfigError(path or "settings", what, fix)


def _typo(name: str) -> bool:
    """Whether a key of section engine is nearly one that it has, or belongs to another section."""
    known = [key for section in known_keys() for key in known_keys(section)]
    return bool(difflib.get_close_matches(name, known_keys("engine"), n=1, cutoff=0.75)) or name in known


def _extra_argument(name: str, value: Any, source: str) -> str:
    """How to give an engine argument that has no setting of its own."""
    # Other values may be long, or a token that must not reach a log.
    shown = value if isinstance(value, bool | int | float) or _PLAIN.fullmatch(str(value)) else "VALUE"
    tree = json.dumps({name: shown})
    written = f"engine: {{extra_args: {tree}}}" if source.startswith("file ") else f"--set 'engine.extra_args={tree}'"
    return f"an argument of vLLM without a setting goes into extra_args: {written}"


def _similar(loc: Sequence[str | int], *, variable: bool) -> str:
    *parents, key = loc
    known = known_keys(*parents)
    close = _RENAMED.get(".".join(map(str, loc))) or closest(str(key), known)
    here = [close] if close else []
    # A setting that exists, but in another section, or that was written without its section.
    elsewhere = [f"{section}.{key}" for section in known_keys() if len(parents) < 2 and key in known_keys(section)]
    paths = elsewhere or [".".join(map(str, (*parents, name))) for name in here]
    if not paths:
        return f"known here: {', '.join(known)}"
    if variable:
        paths = [ENV_PREFIX + path.upper().replace(".", ENV_DELIMITER) for path in paths]
    return f"did you mean {' or '.join(paths)}?"


def _wrong_value(path: str, fault: ErrorDetails) -> tuple[str, str]:
    """What is wrong with a value, and what to set instead."""
    value, (what, form) = fault["input"], describe(fault)
    if fault["type"] == "refused":
        return what, str(fault["ctx"]["fix"])
    if fault["type"] == "missing":
        return what, f"set {path}"
    if not form:
        return what, f"docs/reference/settings.md shows what {path} takes"
    if fault["type"] == "tuple_type":
        form = _list_form(value, known_keys(*fault["loc"]))
    share = _share(value, fault)
    hint = f": {share:g}?" if share is not None else ""
    if fault["type"] == "int_parsing" and (written := written_out(str(value))):
        hint = f": {written}"
    if path.endswith("_gib") and (written := written_in_gib(str(value))):
        hint = f": {written}"
    return what, f"set {path} to {form}{hint}"


def _list_form(value: Any, keys: Sequence[str]) -> str:
    """How to write a list in place of one value, or of items by their number (``license.accepted.0.by``).

    Args:
        keys: of an item, where the items are mappings.
    """
    item = f"{{{', '.join(f'{key}: ...' for key in keys)}}}" if keys else "VALUE"
    if not keys and _PLAIN.fullmatch(str(value)):
        item = str(value)
    by_number = isinstance(value, dict) and value and all(str(key).isdigit() for key in value)
    return f"{'the whole list' if by_number else 'a list'}: [{item}]"


def _share(value: Any, fault: ErrorDetails) -> float | None:
    """The share that a percentage means; None if it is none."""
    limits = fault.get("ctx") or {}
    if fault["type"] == "float_parsing" and (percent := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", str(value))):
        return float(percent[1]) / 100
    if 1 in (limits.get("le"), limits.get("lt")) and isinstance(value, int | float | str):
        try:
            number = float(value)
        except ValueError:
            return None
        # 1.5 is a share that is too large, not a percentage.
        return number / 100 if 2 <= number <= 100 else None
    return None


def known_keys(*parents: str | int) -> list[str]:
    """The sections, the fields of one section, or those of one item of a list such as `license.accepted`."""
    model: type[BaseModel] | None = Settings
    for name in parents:
        if isinstance(name, str) and model is not None:
            field = model.model_fields.get(name)
            model = _model_in(field.annotation) if field else None
    return list(model.model_fields) if model is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model_in(each)) is not None), None)


def closest(word: str, words: Sequence[str]) -> str | None:
    """The word that is most like another; None if none is like it."""
    return next(iter(difflib.get_close_matches(word, words, n=1, cutoff=0.5)), None)
