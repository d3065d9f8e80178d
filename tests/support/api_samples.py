"""Values of a pydantic model or TypedDict, each with a marker in another place where a string can be."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import is_typeddict

_SCALARS = (int, float, bool, complex, types.NoneType)


def fields_of(kind: Any) -> dict[str, Any]:
    """Names in JSON and types of the fields of a model, dataclass or TypedDict; empty for anything else."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    if is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return typing.get_type_hints(kind)
    return {}


def samples(kind: Any, marker: str, numbers: list[int], seen: Collection[Any] = ()) -> Iterator[tuple[str, Any]]:
    """Path and value for every place of a string, a key or a list of numbers. A recursive type is entered once.

    Args:
        numbers: the value of a list of integers, which may be token IDs.
    """
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(kind, typing.TypeAliasType) if hasattr(typing, "TypeAliasType") else False:
        yield from samples(kind.__value__, marker, numbers, seen)
    elif origin is Annotated or origin in (typing.Required, typing.NotRequired):
        yield from samples(args[0], marker, numbers, seen)
    elif origin in (Union, types.UnionType):
        for arm in args:
            yield from samples(arm, marker, numbers, seen)
    elif origin is Literal or kind in _SCALARS:
        return
    elif origin is not None and issubclass(origin, typing.Mapping):
        if args[0] is str:
            yield "{key}", {marker: "some" if args[1] is str else 1}
        for path, value in samples(args[1], marker, numbers, seen):
            yield "{}" + path, {"7" if args[0] is int else "some": value}
    elif origin is not None:
        if args[0] is int:
            yield "[int]", numbers
        for path, value in samples(args[0], marker, numbers, seen):
            yield "[]" + path, [value]
    elif fields := fields_of(kind):
        if kind in seen:
            return
        labels = {name: _constant(name, fields.get(name)) for name in ("type", "role")}
        constants = {name: value for name, value in labels.items() if value is not None}
        for name, hint in fields.items():
            for path, value in samples(hint, marker, numbers, (*seen, kind)):
                yield f".{name}{path}", {**constants, name: value}
    else:  # str, bytes, Any, and whatever validates itself
        yield "", marker


def _constant(name: str, hint: Any) -> str | None:
    """The first value of a Literal of strings, which selects the arm of a union; any role that is a string."""
    if hint is str and name == "role":
        return "user"
    if get_origin(hint) is Literal and isinstance(get_args(hint)[0], str):
        return str(get_args(hint)[0])
    for inner in get_args(hint) if get_origin(hint) in (Annotated, typing.Required, Union, types.UnionType) else ():
        if (value := _constant(name, inner)) is not None:
            return value
    return None
