"""Comparison of two runs: ratios with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from hybridserve.loadtest.metrics import summarize, tokens_over_time
from hybridserve.loadtest.request_record import Record
from hybridserve.loadtest.statistics import Interval, bootstrap_ratio
from hybridserve.quantiles import interpolated

_FEWEST_BLOCKS = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of both runs. `ratio` is a / b; None when there are too few values."""

    name: str
    unit: str
    a: float | None
    b: float | None
    ratio: Interval | None

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 1."""
        return self.ratio is not None and self.ratio.excludes(1.0)

    @property
    def quotient(self) -> float | None:
        """a / b, also without an interval."""
        if self.ratio is not None:
            return self.ratio.value
        return self.a / self.b if self.a is not None and self.b else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "quotient": self.quotient, "differs": self.differs}


def compare(a: Sequence[Record], b: Sequence[Record], seed: int = 1) -> tuple[Row, ...]:
    """All measures. Intervals are 95 % bootstrap intervals over requests, for throughput over blocks of seconds.

    Requests of a run share its queue and are not independent, so intervals are too narrow under heavy load. Repeat runs
    where the decision matters.
    """
    sides = [[record for record in side if record.ok and not record.warm_up] for side in (a, b)]
    rows = []
    for name in ("ttft", "tpot", "e2e"):
        values = [[value for record in side if (value := getattr(record, name)) is not None] for side in sides]
        rows.append(_row(f"{name} p50", values, median, seed))
        rows.append(_row(f"{name} p95", values, _p95, seed))
    blocks = [_blocks([rate for _, rate in tokens_over_time(side)]) for side in sides]
    ratio = _row("output throughput", blocks, fmean, seed).ratio
    first, second = summarize(a), summarize(b)
    rows.append(Row("output throughput", "tokens/s", first.output_throughput, second.output_throughput, ratio))
    rows.append(Row("errors", "share", first.error_rate, second.error_rate, None))
    return tuple(rows)


def _p95(values: Sequence[float]) -> float:
    return interpolated(sorted(values), 0.95)


def _row(name: str, sides: Sequence[Sequence[float]], statistic: Callable[[Sequence[float]], float], seed: int) -> Row:
    first, second = sides
    try:
        ratio = bootstrap_ratio(first, second, statistic, seed)
    except ValueError:
        ratio = None
    return Row(name, "s", statistic(first) if first else None, statistic(second) if second else None, ratio)


def _blocks(rates: Sequence[float]) -> list[float]:
    """Means over blocks of about the square root of the run's seconds, since neighbors are alike, without the ramps."""
    inner = list(rates[1:-1]) or list(rates)
    size = max(1, round(len(inner) ** 0.5))
    blocks = [fmean(inner[start : start + size]) for start in range(0, len(inner) - size + 1, size)]
    return blocks if len(blocks) >= _FEWEST_BLOCKS else []
