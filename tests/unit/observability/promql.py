"""What a PromQL expression asks for, by a real parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser

_VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$__interval": "15s"}


def parse(expr: str) -> Any:
    """The expression as a tree, with Grafana's variables filled in."""
    for name, value in _VARIABLES.items():
        expr = expr.replace(name, value)
    return promql_parser.parse(re.sub(r"\$\w+", "x", expr))


def selectors(node: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """(metric, labels that are asked for) of every selector."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, {one.name: one.value for one in node.matchers.matchers}
        return
    for name in ("lhs", "rhs", "expr", "args", "vector_selector", "param"):
        child = getattr(node, name, None)
        for one in child if isinstance(child, list) else [child]:
            if one is not None and not isinstance(one, str | int | float):
                yield from selectors(one)
