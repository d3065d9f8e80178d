"""Walks over values.schema.json: every key of ours, and a value that it must refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from chart_helm import CHART
from jsonschema import Draft202012Validator

Node = dict[str, Any]
Path = tuple[str | int, ...]

SCHEMA: Node = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
NONSENSE: tuple[Any, ...] = ({"wrong": "kind"}, ["wrong kind"], "\twrong\t", -7.5, True, 10**9)


def resolve(node: Node) -> Node:
    """The node itself: references followed, the null of an optional setting left out."""
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            node = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]
            continue
        kinds = [one for one in node["anyOf"] if one.get("type") != "null" and ("$ref" in one or "type" in one)]
        if len(kinds) != 1:
            break
        (node,) = kinds
    return node


def walk(node: Node = SCHEMA, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every key of ours with its schema, depth first; element 0 represents all elements of a list."""
    real = resolve(node)
    for name, child in real.get("properties", {}).items():
        yield (*path, name), child
        yield from walk(child, (*path, name))
    if "items" in real:
        yield from walk(real["items"], (*path, 0))


def closed(node: Node) -> bool:
    """An object of ours: its keys are named, and others are refused."""
    return resolve(node).get("additionalProperties") is False


def is_object(node: Node) -> bool:
    return "properties" in resolve(node)


def refused_by(node: Node) -> Any:
    """A value that this node must refuse.

    Raises:
        LookupError: it takes everything.
    """
    validator = Draft202012Validator({"$defs": SCHEMA["$defs"], "allOf": [node]})
    for value in NONSENSE:
        if not validator.is_valid(value):
            return value
    raise LookupError(node)


def put(tree: Any, path: Path, value: Any) -> None:
    """Set one value in nested mappings and lists; what is on the way is made."""
    for here, after in pairwise(path):
        made: Any = [] if isinstance(after, int) else {}
        if isinstance(here, int):
            if not tree:
                tree.append(made)
            tree = tree[0]
        else:
            tree = tree.setdefault(here, made)
    tree[path[-1]] = value


def pointer(path: Path) -> str:
    return "/" + "/".join(str(part) for part in path)
