"""The operating curve: each kind of request at each concurrency, and the law of one engine step fitted to it.

The law is the simulator's (hybridserve.simulator.service_times). With `n` sequences of `p` prompt and `o` output
tokens always running, an engine step decodes n sequences with n * (p + o / 2) tokens of context, and computes n * p / o
prompt tokens: each sequence brings its prompt once in o steps. So the time per output token is

    fixed + per_sequence * n + per_context_token * n * (p + o / 2) + per_prompt_token * n * p / o

and the time to first token of a sequence that is alone is overhead + fixed + per_sequence + per_prompt_token * p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from hybridserve.errors import ConfigError
from hybridserve.loadtest.metrics import Summary
from hybridserve.loadtest.scenario import Scenario, TokenKind


def point_folder(kind: str, concurrency: int) -> str:
    """Name of the folder of one point's records."""
    return f"{kind.replace('/', '-')}-{concurrency}"


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One kind of request at one concurrency."""

    kind: str
    prompt: int
    output: int
    concurrency: int
    summary: Summary
    void: bool = False

    @property
    def folder(self) -> str:
        """Where the records of this point are."""
        return point_folder(self.kind, self.concurrency)

    def as_dict(self) -> dict[str, Any]:
        """For the curve file."""
        return {
            "kind": self.kind,
            "folder": self.folder,
            "prompt_tokens": self.prompt,
            "output_tokens": self.output,
            "concurrency": self.concurrency,
            "void": self.void,
            "summary": self.summary.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class StepLaw:
    """Seconds of one engine step, and what stands before it; median relative errors of the fit."""

    fixed_s: float
    per_sequence_s: float
    per_context_token_s: float
    per_prompt_token_s: float
    overhead_s: float
    ttft_error: float
    inter_token_error: float


def sweep_kinds(scenario: Scenario) -> list[tuple[TokenKind, Scenario]]:
    """One closed-loop scenario for each kind: lengths must be known.

    Raises:
        ConfigError: no kind has its lengths in tokens.
    """
    found = [
        (kind, scenario.model_copy(update={"mode": "closed", "mix": (kind,), "trace": None}))
        for kind in scenario.mix
        if isinstance(kind, TokenKind)
    ]
    if not found:
        raise ConfigError(
            "--sweep", "needs kinds of type tokens, and the scenario has none", "for example the scenario grid"
        )
    return found


def fit(points: Sequence[SweepPoint]) -> StepLaw:
    """Fit the law to the medians of a sweep, errors weighed relative.

    Raises:
        ConfigError: too little was measured: two prompt lengths, one of them at concurrency 1, and three points.
    """
    usable = [one for one in points if not one.void and one.summary.tpot is not None and one.summary.ttft is not None]
    alone = [one for one in usable if one.concurrency == 1]
    if len({one.prompt for one in alone}) < 2 or len(usable) < 3:
        raise ConfigError("--sweep", "is too small to fit service times", "two prompt lengths, and concurrency from 1")
    rows, values = [], []
    for one in usable:
        assert one.summary.tpot is not None
        n, p, o = one.concurrency, one.prompt, one.output
        rows.append([1.0, n, n * (p + o / 2), n * p / o, 0.0])
        values.append(one.summary.tpot.p50)
    steps = len(rows)
    for one in alone:
        assert one.summary.ttft is not None
        rows.append([1.0, 1.0, 0.0, one.prompt, 1.0])
        values.append(one.summary.ttft.p50)
    found = nonnegative(rows, values)
    errors = [
        abs(sum(a * b for a, b in zip(row, found, strict=True)) - value) / value
        for row, value in zip(rows, values, strict=True)
    ]
    fixed, per_sequence, per_context, per_prompt, overhead = found
    return StepLaw(
        fixed, per_sequence, per_context, per_prompt, overhead, median(errors[steps:]), median(errors[:steps])
    )


def nonnegative(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Least squares of relative errors with coefficients of at least 0 (coordinate descent, which needs no library)."""
    scaled = [[cell / value for cell in row] for row, value in zip(rows, values, strict=True)]
    width = len(rows[0])
    norms = [sum(row[column] ** 2 for row in scaled) for column in range(width)]
    found = [0.0] * width
    residual = [1.0] * len(rows)
    for _ in range(20_000):
        moved = 0.0
        for column in range(width):
            if norms[column] == 0:
                continue
            step = sum(row[column] * left for row, left in zip(scaled, residual, strict=True)) / norms[column]
            step = max(step, -found[column])
            if step:
                found[column] += step
                residual = [left - row[column] * step for row, left in zip(scaled, residual, strict=True)]
                moved = max(moved, abs(step) * norms[column] ** 0.5)
        if moved < 1e-9:
            break
    return found


def calibration(
    law: StepLaw, engine: Mapping[str, Any], cache: Mapping[str, Any] | None, start_up: float, about: str
) -> dict[str, Any]:
    """A file of the simulator's form.

    Args:
        law: the fit.
        engine: max_num_seqs, max_num_batched_tokens, align_prefill.
        cache: usable_blocks, block_size, state_blocks, growing_groups; None where there is no plan.
        start_up: seconds from asking for a replica until it takes requests.
        about: what was measured, and when.
    """
    tree: dict[str, Any] = {
        "name": "load test sweep",
        "kind": "measured",
        "source": about,
        "step": {
            "fixed_s": _round(max(law.fixed_s, 1e-6)),
            "per_sequence_s": _round(law.per_sequence_s),
            "per_context_token_s": _round(law.per_context_token_s),
            "per_prompt_token_s": _round(max(law.per_prompt_token_s, 1e-9)),
        },
        "engine": dict(engine),
        "request_overhead_s": _round(law.overhead_s),
        "start_up_s": start_up,
        "error": {"ttft": round(law.ttft_error, 3), "inter_token": round(law.inter_token_error, 3)},
    }
    if cache is not None:
        tree["cache"] = dict(cache)
    return tree


def scaling_settings(law: StepLaw, start_up: float) -> dict[str, Any]:
    """The section of the settings that the scaler takes from a measurement.

    Prompt tokens a replica computes per second are the inverse of what one adds to a step; none seen, no limit.
    """
    rate = _round(1 / law.per_prompt_token_s) if law.per_prompt_token_s > 0 else None
    return {"scaling": {"start_up_s": start_up, "prefill_tokens_per_s": rate}}


def _round(value: float) -> float:
    return float(f"{value:.4g}")
