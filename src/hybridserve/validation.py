"""What pydantic found wrong with a value, in the words of a person who writes YAML, and as an error in three parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import PydanticCustomError

from hybridserve.errors import ConfigError, HybridServeError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_LIST = ("{value} is not a list", "a list, [VALUE, ...]")
_MAPPING = ("{value} is not a mapping", "a mapping, {{KEY: VALUE}}")
_WORDS = {
    "missing": ("is missing", ""),
    "extra_forbidden": ("is not a known field", ""),
    "refused": ("{what}", ""),
    "value_error": ("{error}", ""),
    "int_": ("{value} is not a whole number", "a whole number"),
    "float_": ("{value} is not a number", "a number"),
    "finite_number": ("{value} is not a finite number", "a finite number"),
    "bool_": ("{value} is neither true nor false", "true or false"),
    "string_type": ("{value} is not text", "text, in quotes where it looks like a number"),
    "string_too_short": ("{value} has fewer than {min_length} characters", "text of {min_length} characters or more"),
    "date_": ("{value} is not a date", "a date, such as 2026-11-28"),
    "path_type": ("{value} is not a path", "a path"),
    "literal_error": ("{value} is not {expected}", "{expected}"),
    "greater_than_equal": ("{value} is below {ge}", "a number of {ge} or more"),
    "greater_than": ("{value} is not above {gt}", "a number above {gt}"),
    "less_than_equal": ("{value} is above {le}", "a number of {le} or less"),
    "less_than": ("{value} is not below {lt}", "a number below {lt}"),
    "union_tag_invalid": ("{discriminator} is '{tag}', not one of {expected_tags}", ""),
    "union_tag_not_found": ("{discriminator} is missing", ""),
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "model_": _MAPPING,
}
"""By the type of pydantic's error, or its beginning: what is wrong, and the form of a right value, if it helps."""

_PATTERNS = {
    "^[0-9a-f]{40}$": "the 40 lowercase hex digits of a commit",
    "^[0-9a-f]{64}$": "the 64 lowercase hex digits of a sha256",
    "^[A-Z]{2}$": "two capital letters, such as DE",
    "^https?://": "an address that begins with http:// or https://",
    "^(rediss?|unix)://[^@]*$": "an address such as redis://HOST:6379/0, without a password",
}


class Description(NamedTuple):
    """What is wrong with a value, and how to write a right one, such as ``a whole number``; "" where no form helps."""

    what: str
    form: str


def describe(fault: ErrorDetails) -> Description:
    """A fault that pydantic found; the value is not shown where it may be long or have a password in it."""
    kind, value, context = fault["type"], fault["input"], fault.get("ctx") or {}
    shown = _shown(value)
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        form = _PATTERNS.get(pattern, f"text of the form {pattern}")
        return Description(f"{'the value' if '://' in pattern else shown} is not {form}", form)
    if kind == "string_too_short" and context["min_length"] == 1:
        return Description("is empty", "text that is not empty")
    words = next((words for begin, words in _WORDS.items() if kind.startswith(begin)), None)
    if words is None:
        said = fault["msg"].removeprefix("Assertion failed, ").replace("a valid ", "a ").partition(", unable")[0]
        if said.startswith("Input "):
            said = f"{shown} {said.removeprefix('Input ').replace('should be', 'is not', 1)}"
        return Description(said, "")
    return Description(*(text.format_map({**context, "value": shown}) for text in words))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if "://" in str(value):
        return "the value"
    if value is None or isinstance(value, bool):
        return json.dumps(value)  # as YAML has them
    return repr(value) if isinstance(value, str | int | float | list | tuple) else str(value)


def refused(what: str, fix: str, *fields: str) -> PydanticCustomError:
    """The error that a validator raises: unlike a ValueError it has what to do.

    Args:
        what: what is wrong, with the values.
        fix: what to write, with the paths of other settings.
        fields: the fields of the section that contradict each other; none where it is about one value.
    """
    # The text is a template, in which braces would be read as names.
    return PydanticCustomError("refused", "{what}", {"what": what, "fix": fix, "fields": fields})


def from_validation(
    error: ValidationError, where: str, fix: str = "correct the file", kind: type[HybridServeError] = ConfigError
) -> HybridServeError:
    """The first fault that pydantic found, as an error of class `kind`. The field's path is added to `where`.

    Missing fields of one section are named together.

    Args:
        fix: what to do, where a validator did not say (`refused`).
    """
    faults = error.errors(include_url=False)
    first = faults[0]
    context: Mapping[str, Any] = first.get("ctx") or {}
    place, what = first["loc"], describe(first).what
    if first["type"] == "missing":
        beside = [fault["loc"] for fault in faults if fault["type"] == "missing" and fault["loc"][:-1] == place[:-1]]
        if len(beside) > 1:
            place, what = place[:-1], f"{', '.join(str(location[-1]) for location in beside)} are missing"
    path = ".".join(str(part) for part in place)
    return kind(": ".join(part for part in (where, path) if part), what, str(context.get("fix", fix)))
