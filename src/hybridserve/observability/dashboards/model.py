"""Dashboards as plain data: rows of panels, each with its queries, unit, thresholds and description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

# Set by the variables of every dashboard.
# Ray's own metrics have no label for the model: they are per node.
RAY = 'namespace=~"$namespace", release=~"$release"'
MODEL = f'{RAY}, model=~"$model"'
REPLICA = f'{MODEL}, replica=~"$replica"'
# Objects of Kubernetes have no label for the release.
NAMESPACE = 'namespace=~"$namespace"'
RATE = "$__rate_interval"

Query = tuple[str, str]
"""PromQL, and the legend of each series with ``{{label}}``."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        unit: Grafana's name of a unit, or `suffix: NAME`.
        kind: a graph, one number, the legends themselves, or a table of the series' labels.
        description: what is shown, and when to act.
        limits: (from this value on, color), rising; below the first it is `base`.
        runbook: page under docs/runbooks.
        rare: why it may be empty in a healthy service.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat", "names", "table"] = "timeseries"
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
    rows: tuple[Row, ...]

    @property
    def uid(self) -> str:
        return f"hybridserve-{self.slug}"

    def panels(self) -> Iterator[Panel]:
        """All panels, in order."""
        for row in self.rows:
            yield from row.panels


def dashboard(slug: str, title: str, description: str, *rows: Row) -> Dashboard:
    """A dashboard of hybridserve."""
    return Dashboard(slug, f"hybridserve / {title}", description, rows)


def row(title: str, *panels: Panel) -> Row:
    """A row."""
    return Row(title, panels)


def panel(title: str, unit: str, description: str, *queries: Query | str, **options: Any) -> Panel:
    """A graph; PromQL alone, or a query without labels, has the title as its legend."""
    both = ((query, "") if isinstance(query, str) else query for query in queries)
    pairs = tuple((expr, legend or title) for expr, legend in both)
    return Panel(title, description, unit, pairs, **options)


def stat(title: str, unit: str, description: str, query: str, *limits: tuple[float, str], **options: Any) -> Panel:
    """One number, with its thresholds."""
    return panel(title, unit, description, query, kind="stat", limits=limits, **options)


def _query(how: str, expr: str, by: str) -> Query:
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", ")) if by else ""
    return (f"{how} by ({by}) ({expr})" if by else f"{how}({expr})"), legend


def total(metric: str, by: str = "", where: str = REPLICA) -> Query:
    """Sum of a gauge, by labels."""
    return _query("sum", f"{metric}{{{where}}}", by)


def highest(metric: str, by: str = "", where: str = REPLICA) -> Query:
    """Maximum of a gauge, by labels."""
    return _query("max", f"{metric}{{{where}}}", by)


def rate(metric: str, by: str = "", where: str = REPLICA) -> Query:
    """Rate per second of a counter, summed by labels."""
    return _query("sum", f"rate({metric}{{{where}}}[{RATE}])", by)


def mean(metric: str) -> str:
    """Exact mean of a histogram."""
    return f"{rate(f'{metric}_sum')[0]} / ({rate(f'{metric}_count')[0]} > 0)"


def quantiles(metric: str, by: str = "", shown: tuple[float, ...] = (0.5, 0.95, 0.99)) -> tuple[Query, ...]:
    """p50, p95 and p99 of a histogram."""
    buckets, _ = rate(f"{metric}_bucket", f"le, {by}" if by else "le")
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple((f"histogram_quantile({q}, {buckets})", f"p{q * 100:.0f}{legend}") for q in shown)
