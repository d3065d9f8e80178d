"""A dashboard without Grafana's words: rows of panels, each with its queries, unit, limits and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

# Chosen by the variables that every dashboard has.
MODEL = 'namespace=~"$namespace", model=~"$model"'
REPLICA = f'{MODEL}, replica=~"$replica"'
# Ray's own export knows no model: a node's agent speaks for all that runs there.
RAY = 'namespace=~"$namespace"'
RATE = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and the name of each line, with ``{{label}}``."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        unit: Grafana's name of a unit.
        kind: over time, one number, or the legends themselves.
        description: what is shown, and when to worry.
        limits: (from this value on, colour), rising; below the first it is `base`.
        runbook: page under docs/runbooks.
        rare: why it may be empty in a healthy service.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat", "names"] = "timeseries"
    base: str = "green"
    limits: tuple[tuple[float, str], ...] = ()
    stack: bool = False
    highest: float | None = None
    runbook: str | None = None
    rare: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `slug` names its file, its uid and its links."""

    slug: str
    title: str
    description: str
    rows: tuple[Row, ...] = field(default=())

    @property
    def uid(self) -> str:
        return f"hybridserve-{self.slug}"

    def panels(self) -> Iterator[Panel]:
        """All panels, in order."""
        for row in self.rows:
            yield from row.panels


def panel(title: str, unit: str, description: str, *queries: tuple[str, str] | str, **more: object) -> Panel:
    """A panel whose queries are given as PromQL, or as (PromQL, legend)."""
    asked = tuple(Query(one) if isinstance(one, str) else Query(*one) for one in queries)
    return Panel(title, description, unit, asked, **more)  # type: ignore[arg-type]


def quantiles(metric: str, by: str = "", selector: str = REPLICA) -> tuple[tuple[str, str], ...]:
    """p50, p95 and p99 of a histogram."""
    labels = f"le, {by}" if by else "le"
    name = f" {{{{{by}}}}}" if by else ""
    return tuple(
        (f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}[{RATE}])))", f"p{q * 100:.0f}{name}")
        for q in (0.5, 0.95, 0.99)
    )  # fmt: skip
