"""Metrics and labels of a PromQL expression, by a real parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser

_VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$__interval": "15s", "$price": "1"}


def parse(expr: str) -> Any:
    """The expression as a tree, with Grafana's variables filled in."""
    for name, value in _VARIABLES.items():
        expr = expr.replace(name, value)
    return promql_parser.parse(re.sub(r"\$\w+", "x", expr))


def nodes(node: Any) -> Iterator[Any]:
    """The node and everything below it."""
    yield node
    for name in ("lhs", "rhs", "expr", "args", "vector_selector", "param"):
        child = getattr(node, name, None)
        for part in child if isinstance(child, list) else [child]:
            if part is not None and not isinstance(part, str | int | float):
                yield from nodes(part)


def selectors(tree: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """(metric, labels) of every selector."""
    for node in nodes(tree):
        if isinstance(node, promql_parser.VectorSelector):
            yield node.name, {matcher.name: matcher.value for matcher in node.matchers.matchers}


def groupings(tree: Any) -> set[str]:
    """Labels that aggregations keep."""
    aggregations = [node for node in nodes(tree) if isinstance(node, promql_parser.AggregateExpr) and node.modifier]
    return {
        label
        for node in aggregations
        if node.modifier.type == promql_parser.AggModifierType.By
        for label in node.modifier.labels
    }
