"""Two runs side by side: ratios, each with the interval in which it would fall were the runs repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from hybridserve.loadtest.metrics import summarise, tokens_over_time
from hybridserve.loadtest.request_record import Record
from hybridserve.loadtest.statistics import Interval, bootstrap_ratio
from hybridserve.quantiles import interpolated


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of both runs. `ratio` is a over b; None where one side measured nothing."""

    name: str
    unit: str
    a: float | None
    b: float | None
    ratio: Interval | None

    @property
    def differs(self) -> bool:
        """The interval leaves out 1: more than luck."""
        return self.ratio is not None and self.ratio.excludes(1.0)

    @property
    def quotient(self) -> float | None:
        """a over b, also where too little was measured for an interval."""
        if self.ratio is not None:
            return self.ratio.value
        return self.a / self.b if self.a is not None and self.b else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "quotient": self.quotient, "differs": self.differs}


def compare(a: Sequence[Record], b: Sequence[Record], seed: int = 1) -> tuple[Row, ...]:
    """All measures; intervals are 95 % bootstrap over requests, for throughput over blocks of seconds.

    Requests of one run share its queue, so they are not independent, and intervals are too narrow under heavy load.
    Repeat runs where the decision matters.
    """
    ours, theirs = _whole(a), _whole(b)
    rows = []
    for name, pick in _MEASURES.items():
        left, right = (
            [v for one in ours if (v := pick(one)) is not None],
            [v for one in theirs if (v := pick(one)) is not None],
        )
        rows.append(_row(f"{name} p50", "s", left, right, median, seed))
        rows.append(_row(f"{name} p95", "s", left, right, _p95, seed))
    rates = [[rate for _, rate in tokens_over_time(side)] for side in (ours, theirs)]
    row = _row("output throughput", "tokens/s", _blocks(rates[0]), _blocks(rates[1]), _mean, seed)
    first, second = summarise(a), summarise(b)
    rows.append(Row(row.name, row.unit, first.output_throughput, second.output_throughput, row.ratio))
    rows.append(Row("errors", "share", first.error_rate, second.error_rate, None))
    return tuple(rows)


_FEWEST_BLOCKS = 4
_MEASURES: dict[str, Callable[[Record], float | None]] = {
    "ttft": lambda one: one.ttft,
    "tpot": lambda one: one.tpot,
    "e2e": lambda one: one.e2e,
}


def _whole(records: Sequence[Record]) -> list[Record]:
    return [one for one in records if one.ok and not one.warm_up]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _p95(values: Sequence[float]) -> float:
    return interpolated(sorted(values), 0.95)


def _row(
    name: str,
    unit: str,
    a: Sequence[float],
    b: Sequence[float],
    statistic: Callable[[Sequence[float]], float],
    seed: int,
) -> Row:
    try:
        ratio = bootstrap_ratio(a, b, statistic, seed)
    except ValueError:
        ratio = None
    return Row(name, unit, statistic(a) if a else None, statistic(b) if b else None, ratio)


def _blocks(rates: Sequence[float]) -> list[float]:
    """Means over blocks of about the square root of the run's seconds: neighbours are alike. The ends are ramps."""
    inner = list(rates[1:-1]) or list(rates)
    size = max(1, round(len(inner) ** 0.5))
    blocks = [_mean(inner[at : at + size]) for at in range(0, len(inner) - size + 1, size)]
    # A few seconds tell nothing about other seconds.
    return blocks if len(blocks) >= _FEWEST_BLOCKS else []
