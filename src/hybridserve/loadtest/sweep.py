"""Series of runs: the highest rate that keeps the SLO, and the operating curve with the service times fitted to it.

The model of an engine step is the simulator's (hybridserve.simulator.service_times). With `n` sequences of `p` prompt
and `o` output tokens always running, a step decodes n sequences with n * (p + o / 2) tokens of context and computes
n * p / o prompt tokens: each sequence brings its prompt once in o steps. So the time per output token is

    fixed + per_sequence * n + per_context_token * n * (p + o / 2) + per_prompt_token * n * p / o

and the time to first token of a single sequence is overhead + fixed + per_sequence + per_prompt_token * p.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from hybridserve.errors import ConfigError
from hybridserve.loadtest.metrics import Summary
from hybridserve.loadtest.scenario import Scenario, TokenKind
from hybridserve.loadtest.verdict import SLOStatus

RateStatus = SLOStatus | Literal["interrupted", "gone"]
"""The result of one rate. `gone`: the server no longer answers."""


@dataclass(frozen=True, slots=True)
class RateSearch:
    """The result of a search.

    Attributes:
        best: the highest rate that kept the SLO; None when there was none.
        tried: every rate with its result, in order.
        ended: `found`; `open`: the highest allowed rate was kept; otherwise the status that ended the search. A
            void run ends it, since nothing above can be judged.
    """

    best: float | None
    tried: tuple[tuple[float, RateStatus], ...]
    ended: Literal["found", "open", "void", "interrupted", "gone"] = "found"


def find_max(
    probe: Callable[[float], RateStatus], first: float, highest: float, precision: float = 0.1, lowest: float = 0.01
) -> RateSearch:
    """Search between `lowest` and `highest` (requests/s), starting at `first`: double until missed, then bisect.

    The attainment of a queue falls with its rate, so one border separates kept from missed rates. The search ends when
    the lowest missed rate is at most `precision` above the highest kept rate.
    """
    tried: list[tuple[float, RateStatus]] = []
    kept: float | None = None
    missed: float | None = None
    rate = min(first, highest)
    while True:
        status = probe(rate)
        tried.append((rate, status))
        if status != "kept" and status != "missed":
            return RateSearch(kept, tuple(tried), status)
        if status == "kept":
            kept = rate
            if missed is None and rate >= highest:
                return RateSearch(kept, tuple(tried), "open")
        else:
            missed = rate
            if kept is None and rate <= lowest:
                return RateSearch(None, tuple(tried))
        if kept is not None and missed is not None:
            if missed <= kept * (1 + precision):
                return RateSearch(kept, tuple(tried))
            # The geometric mean: rates differ by factors.
            rate = (kept * missed) ** 0.5
        else:
            rate = min(rate * 2, highest) if missed is None else max(rate / 2, lowest)


def point_folder(kind: str, concurrency: int) -> str:
    """Name of the folder with the records of a point."""
    return f"{kind.replace('/', '-')}-{concurrency}"


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One kind of request at one concurrency. `void`: the client was the bottleneck."""

    kind: str
    prompt: int
    output: int
    concurrency: int
    summary: Summary
    void: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For operating-curve.json."""
        return {
            "kind": self.kind,
            "folder": point_folder(self.kind, self.concurrency),
            "prompt_tokens": self.prompt,
            "output_tokens": self.output,
            "concurrency": self.concurrency,
            "void": self.void,
            "summary": self.summary.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Times of an engine step and of a request's overhead, with the median relative errors of the fit."""

    fixed_s: float
    per_sequence_s: float
    per_context_token_s: float
    per_prompt_token_s: float
    overhead_s: float
    ttft_error: float
    inter_token_error: float


def sweep_kinds(scenario: Scenario) -> list[tuple[TokenKind, Scenario]]:
    """A closed-loop scenario for each kind with known lengths.

    Raises:
        ConfigError: no kind has type tokens.
    """
    kinds = [kind for kind in scenario.mix if isinstance(kind, TokenKind)]
    if not kinds:
        raise ConfigError("--sweep", "the scenario has no kind of type tokens", "for example use the scenario grid")
    return [(kind, scenario.model_copy(update={"mode": "closed", "mix": (kind,), "trace": None})) for kind in kinds]


def fit(points: Sequence[SweepPoint]) -> StepTimes:
    """Fit the step times to the medians of a sweep, by relative errors.

    Raises:
        ConfigError: too few points: it needs three, and two prompt lengths at concurrency 1.
    """
    rows, values = [], []
    alone_rows, alone_values = [], []
    for point in points:
        tpot, ttft = point.summary.tpot, point.summary.ttft
        if point.void or tpot is None or ttft is None:
            continue
        n, p, o = point.concurrency, point.prompt, point.output
        rows.append([1.0, n, n * (p + o / 2), n * p / o, 0.0])
        values.append(tpot.p50)
        if n == 1:
            alone_rows.append([1.0, 1.0, 0.0, p, 1.0])
            alone_values.append(ttft.p50)
    if len({row[3] for row in alone_rows}) < 2 or len(rows) < 3:
        raise ConfigError("--sweep", "too few points to fit service times", "use two prompt lengths and concurrency 1")
    times = nonnegative_least_squares(rows + alone_rows, values + alone_values)
    fixed, per_sequence, per_context_token, per_prompt_token, overhead = times

    def error(rows: Sequence[Sequence[float]], values: Sequence[float]) -> float:
        estimates = (sum(a * b for a, b in zip(row, times, strict=True)) for row in rows)
        return median(abs(estimate - value) / value for estimate, value in zip(estimates, values, strict=True))

    ttft_error, inter_token_error = error(alone_rows, alone_values), error(rows, values)
    return StepTimes(fixed, per_sequence, per_context_token, per_prompt_token, overhead, ttft_error, inter_token_error)


def nonnegative_least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Coefficients of at least 0 with the least squares of relative errors, by coordinate descent."""
    scaled = [[cell / value for cell in row] for row, value in zip(rows, values, strict=True)]
    columns = list(zip(*scaled, strict=True))
    norms = [sum(cell**2 for cell in column) for column in columns]
    found = [0.0] * len(columns)
    residual = [1.0] * len(rows)
    for _ in range(20_000):
        moved = 0.0
        for index, (column, norm) in enumerate(zip(columns, norms, strict=True)):
            if norm == 0:
                continue
            step = sum(cell * left for cell, left in zip(column, residual, strict=True)) / norm
            step = max(step, -found[index])
            if step:
                found[index] += step
                residual = [left - cell * step for cell, left in zip(column, residual, strict=True)]
                moved = max(moved, abs(step) * norm**0.5)
        if moved < 1e-9:
            break
    return found


def calibration(
    times: StepTimes, engine: Mapping[str, Any], cache: Mapping[str, Any], start_up: float, about: str
) -> dict[str, Any]:
    """The content of the simulator's calibration file.

    Args:
        times: the fit.
        engine: max_num_seqs, max_num_batched_tokens, align_prefill.
        cache: usable_blocks, block_size, state_blocks, growing_groups.
        start_up: seconds until a new replica takes requests.
        about: what was measured, and when.
    """
    return {
        "name": "load test sweep",
        "kind": "measured",
        "source": about,
        "step": {
            "fixed_s": _round(max(times.fixed_s, 1e-6)),
            "per_sequence_s": _round(times.per_sequence_s),
            "per_context_token_s": _round(times.per_context_token_s),
            "per_prompt_token_s": _round(max(times.per_prompt_token_s, 1e-9)),
        },
        "engine": dict(engine),
        "request_overhead_s": _round(times.overhead_s),
        "start_up_s": start_up,
        "error": {"ttft": round(times.ttft_error, 3), "inter_token": round(times.inter_token_error, 3)},
        "cache": dict(cache),
    }


def scaling_settings(times: StepTimes, start_up: float) -> dict[str, Any]:
    """The measured settings of the autoscaler.

    A replica's prompt tokens per second are the inverse of the time that one adds to a step; None when it adds none.
    """
    rate = _round(1 / times.per_prompt_token_s) if times.per_prompt_token_s > 0 else None
    return {"scaling": {"start_up_s": start_up, "prefill_tokens_per_s": rate}}


def _round(value: float) -> float:
    return float(f"{value:.4g}")
