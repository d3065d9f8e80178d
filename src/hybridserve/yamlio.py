"""The one way to read YAML: safe, by the C parser, with limits on aliases and depth, and with clear errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hybridserve.errors import ConfigError, HybridServeError
from hybridserve.files import read_text

MAX_VALUES = 100_000


# The Python parser takes a tenth of a second for a long file.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads 1e-06 as a number: Go and YAML 1.2 write it so, and YAML 1.1 would make it text. Refuses repeated keys."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        _refuse_repeated_keys(node, set())
        return node


# With a sign only: an exponent without one may be part of a digest.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+][0-9]+$"), list("-+0123456789")
)


def parse(text: str, where: str, fix: str = "correct the file", kind: type[HybridServeError] = ConfigError) -> Any:
    """Parse YAML (or JSON, which is a subset). Empty text is None.

    Args:
        text: the YAML.
        where: the file or setting that an error names.
        fix: what an error tells the user to do.
        kind: class of the error.

    Raises:
        HybridServeError: of class `kind`: not YAML, too deeply nested, recursive, or more than `MAX_VALUES` values.
    """
    try:
        tree = yaml.load(text, Loader=_Loader)
        _count_values(tree, {})
    except (yaml.YAMLError, ValueError) as error:
        problem, remedy = _problem(error, text)
        raise kind(where, f"is not valid YAML: {problem}", remedy or fix) from None
    except RecursionError:
        raise kind(where, "is nested too deeply, or refers to itself", fix) from None
    return tree


def _refuse_repeated_keys(node: yaml.Node | None, seen: set[int]) -> None:
    """YAML forbids equal keys in one mapping, and the parser keeps the last: the values of the first would be lost.

    Args:
        seen: ids of the nodes that were checked; an alias is its anchor's node.

    Raises:
        ConstructorError: a mapping has a key twice.
    """
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    seen.add(id(node))
    if not isinstance(node, yaml.MappingNode):
        for child in node.value:
            _refuse_repeated_keys(child, seen)
        return
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if first := lines.get((key.tag, key.value)):
                problem = f"{key.value!r} is in line {first} already: write its values together there"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.tag, key.value] = key.start_mark.line + 1
        _refuse_repeated_keys(value, seen)


def _problem(error: Exception, text: str) -> tuple[str, str | None]:
    """What is wrong, and where, as the parser's own text calls every source a unicode string; and the fix if known."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split()), None
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    words = [word for word in (getattr(error, "context", None), getattr(error, "problem", None)) if word]
    character = "".join(text.split("\n")[mark.line : mark.line + 1])[mark.column : mark.column + 1]
    if character == "\t":
        return f"{place} is a tab", "indent with spaces"
    if character and "cannot start any token" in words[-1]:
        return f"{place}: no value begins with {character}", "put the value in quotes"
    return f"{place}: {', '.join(words)}", None


def read(path: Path, where: str = "", fix: str = "correct the file", kind: type[HybridServeError] = ConfigError) -> Any:
    """Parse a YAML file; `where` is its path unless given.

    Raises:
        HybridServeError: of class `kind`: unreadable, not UTF-8, or not valid (see `parse`).
    """
    where = where or str(path)
    return parse(read_text(path, where, kind=kind), where, fix, kind)


def line_of(path: Path, keys: Sequence[str]) -> int | None:
    """Line of a value in a YAML file by its keys, or of the innermost of them that is there; None if none is."""
    line = None
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                found = [(name, value) for name, value in node.value if name.value == key]
                if not found:
                    break
                name, node = found[-1]
                line = name.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
                node = node.value[int(key)]
                line = node.start_mark.line + 1
            else:
                break
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return line


def _count_values(value: Any, known: dict[int, int]) -> int:
    """Values in a tree, those behind an alias counted each time: ten lines of aliases can mean billions of values."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        children = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count_values(child, known) for child in children)
    if known[id(value)] > MAX_VALUES:
        raise ValueError(f"its aliases expand to more than {MAX_VALUES} values")
    return known[id(value)]
