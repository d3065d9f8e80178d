"""Escapes special tokens and control words in the text of users and tools, before the model's template reads it."""

from __future__ import annotations

import re
from typing import Any

from hybridserve.gateway.requests.judged_text import MAX_DEPTH, NestedTooDeeply
from hybridserve.guards.special_tokens import JOINER, escape

_TRUSTED_ROLES = ("system", "developer", "assistant")
# Items of the Responses API that the model wrote.
_MODEL_ITEMS = ("function_call", "reasoning")
# Fields that come from other places than the operator: tools from servers of others, documents from a search.
_UNTRUSTED_FIELDS = ("tools", "functions", "documents")


def escape_request(body: dict[str, Any], pattern: re.Pattern[str]) -> bool:
    """Escape every match in the text of users, tools and documents, in place; True if the body changed.

    Messages of the operator (system, developer) and of the model keep theirs, and so does the prompt of a completion,
    in which the client writes the template's tokens itself.

    Raises:
        NestedTooDeeply: a part of the body is nested too deeply.
    """
    changed = False
    for field in _UNTRUSTED_FIELDS:
        if value := body.get(field):
            body[field] = _escaped(value, pattern)
            changed |= body[field] is not value
    for field in ("messages", "input"):
        items: Any = body.get(field)
        if isinstance(items, str) and field == "input":
            body[field] = escape(items, pattern)
            changed |= body[field] != items
        for position, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, str):
                items[position] = escape(item, pattern)
                changed |= items[position] != item
            if not isinstance(item, dict) or item.get("role") in _TRUSTED_ROLES or item.get("type") in _MODEL_ITEMS:
                continue
            for key, value in item.items():
                if key not in ("role", "type"):
                    item[key] = _escaped(value, pattern)
                    changed |= item[key] is not value
    return changed


def _escaped(value: Any, pattern: re.Pattern[str], depth: int = 0) -> Any:
    """The value with its texts and keys escaped; the same object if nothing matches."""
    if isinstance(value, str):
        return value if (escaped := escape(value, pattern)) == value else escaped
    if depth > MAX_DEPTH:
        raise NestedTooDeeply
    if isinstance(value, dict):
        fields = {_escaped(key, pattern): _escaped(inner, pattern, depth + 1) for key, inner in value.items()}
        return value if all(fields.get(key) is inner for key, inner in value.items()) else fields
    if isinstance(value, list):
        items = [_escaped(inner, pattern, depth + 1) for inner in value]
        texts = [_text(item) for item in items]
        if len(items) > 1 and escape(joined := "".join(texts), pattern) != joined:
            # A token that is split across two parts would be joined again by the template.
            return [_prefixed(item) for item in items]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return value


def _text(part: Any) -> str:
    return part if isinstance(part, str) else next((part[key] for key in _text_keys(part)), "")


def _prefixed(part: Any) -> Any:
    if isinstance(part, str):
        return JOINER + part
    return {**part, **{key: JOINER + part[key] for key in _text_keys(part)}} if isinstance(part, dict) else part


def _text_keys(part: Any) -> list[str]:
    keys = ("text", "thinking", "refusal") if isinstance(part, dict) else ()
    return [key for key in keys if isinstance(part.get(key), str)]
