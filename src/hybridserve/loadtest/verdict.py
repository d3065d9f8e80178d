"""The verdict on a run: does it keep the SLO, and was the client fast enough for its numbers to count?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter, process_time
from typing import Any, Literal

from hybridserve.loadtest.metrics import Summary
from hybridserve.loadtest.scenario import Client, LoadTestSLO
from hybridserve.quantiles import interpolated

PROBE_S = 0.01
WINDOW_S = 0.5
_MISSING_S = 10.0
"""A worker without a window for so long is missing."""

SLOStatus = Literal["kept", "missed", "void"]
EXIT_CODES: dict[SLOStatus, int] = {"kept": 0, "missed": 1, "void": 3}
"""2 is bad input, as everywhere in hybridserve."""
VERDICTS: dict[SLOStatus, str] = {
    "kept": "The SLO is kept.",
    "missed": "The SLO is missed.",
    "void": "The run is void: the client was the bottleneck.",
}


MUST_BLOCK = "requests that must be blocked"


@dataclass(frozen=True, slots=True)
class Window:
    """About half a second of one worker.

    Attributes:
        at: its end, seconds since the epoch.
        worker: index of the worker.
        cpu: share of one core.
        lags: delay of each probe of the event loop, in seconds.
    """

    at: float
    worker: int
    cpu: float
    lags: tuple[float, ...]

    def to_json(self) -> str:
        return json.dumps([round(self.at, 3), self.worker, round(self.cpu, 4), [round(lag, 5) for lag in self.lags]])

    @classmethod
    def from_json(cls, line: str) -> Window:
        at, worker, cpu, lags = json.loads(line)
        return cls(at, worker, cpu, tuple(lags))


def watch_client(worker: int, clock: Any, sleep: Any) -> Iterator[Window]:
    """Windows without end. `sleep` yields to the event loop; its delay is the lag of the loop."""
    while True:
        began, used, lags = perf_counter(), process_time(), []
        while perf_counter() - began < WINDOW_S:
            before = perf_counter()
            sleep(PROBE_S)
            lags.append(max(0.0, perf_counter() - before - PROBE_S))
        share = (process_time() - used) / (perf_counter() - began)
        yield Window(clock(), worker, share, tuple(lags))


@dataclass(frozen=True, slots=True)
class Health:
    """The client during the measured part of a run.

    Attributes:
        workers: number of workers.
        cpu: mean share of one core, of the busiest worker.
        lag_p50, lag_p99: delay of the event loop, in seconds.
        tokens_per_s: streamed tokens per worker.
        faults: why the run is void; empty when it is valid.
    """

    workers: int
    cpu: float
    lag_p50: float
    lag_p99: float
    tokens_per_s: float
    faults: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return not self.faults


def client_health(
    windows: Iterable[Window], summary: Summary, rules: Client, start: float, end: float, expected: int = 1
) -> Health:
    """Judge the windows that end between `start` and `end` (seconds since the epoch).

    A late event loop reads tokens late: TTFT grows, and tokens then arrive together. So percentiles of the lag are
    compared with the same percentiles of TTFT. No windows, fewer than `expected` workers and workers that stopped
    reporting are faults too: what they sent is unknown.
    """
    windows = sorted(windows, key=lambda window: window.at)
    measured = [window for window in windows if start <= window.at - WINDOW_S / 2 <= end]
    measured = measured or [window for window in windows if start <= window.at][:1]
    if not measured:
        return Health(0, 0.0, 0.0, 0.0, 0.0, ("the client was not monitored",))
    shares: dict[int, list[float]] = {}
    for window in measured:
        shares.setdefault(window.worker, []).append(window.cpu)
    cpu = max(sum(share) / len(share) for share in shares.values())
    lags = sorted(lag for window in measured for lag in window.lags)
    rate = summary.output_throughput / len(shares)
    faults = []
    last = {window.worker: window.at for window in windows}
    if len(last) < expected:
        faults.append(f"{len(last)} of {expected} workers reported")
    faults += [
        f"worker {worker} stopped reporting {at - start:.0f} s after the start"
        for worker, at in last.items()
        if end - at > _MISSING_S
    ]
    if cpu > rules.max_cpu:
        faults.append(f"a worker used {cpu:.0%} of its core (limit {rules.max_cpu:.0%})")
    if rate > rules.max_tokens_per_s:
        faults.append(f"{rate:,.0f} streamed tokens/s on one worker (limit {rules.max_tokens_per_s:,.0f})")
    ttft, late = summary.ttft, summary.schedule_lag
    if ttft is not None and late is not None:
        # With few requests the 99th percentile is a single unlucky one.
        for rank in (50, 99 if ttft.is_reliable(99) else 90):
            limit = max(rules.lag_floor_s, rules.max_lag_share * ttft.percentile(rank))
            delays = {"the event loop was": interpolated(lags, rank / 100), "requests left": late.percentile(rank)}
            faults += [
                f"{name} {delay * 1000:.0f} ms late (p{rank}; limit {limit * 1000:.0f} ms)"
                for name, delay in delays.items()
                if delay > limit
            ]
    return Health(len(shares), cpu, interpolated(lags, 0.5), interpolated(lags, 0.99), rate, tuple(faults))


@dataclass(frozen=True, slots=True)
class Check:
    """One objective: the value is at most its limit, or `at_least` its limit.

    `value` is None when nothing was measured; the objective is missed then.
    """

    name: str
    limit: float
    value: float | None
    kept: bool
    at_least: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_slo(summary: Summary, slo: LoadTestSLO, must_block: int | None = None) -> tuple[Check, ...]:
    """Compare a run with every objective of the scenario.

    Args:
        must_block: requests sent that the guard must block; None where the scenario has no such kind.
    """
    attainment = summary.attainment.value if summary.attainment is not None else None
    errors = summary.error_rate if summary.attempted else None
    checks = [
        Check("attainment", slo.attainment, attainment, attainment is not None and attainment >= slo.attainment, True),
        Check("errors", slo.errors, errors, errors is not None and errors <= slo.errors),
    ]
    for name, limit in slo.percentiles.items():
        measure, _, rank = name.partition("_p")
        spread = getattr(summary, measure)
        value = None if spread is None else spread.percentile(int(rank))
        checks.append(Check(name, limit, value, value is not None and value <= limit))
    if must_block is not None:
        # Without one the guard was not tested.
        checks.append(Check(MUST_BLOCK, 1, must_block, must_block >= 1, True))
    return tuple(checks)


def slo_status(checks: tuple[Check, ...], health: Health) -> SLOStatus:
    """The verdict. Void comes before missed: a client that was too slow proves nothing about the server."""
    if not health.valid:
        return "void"
    return "kept" if all(check.kept for check in checks) else "missed"


def verdict_text(status: SLOStatus, checks: tuple[Check, ...]) -> str:
    """The verdict as a sentence; a missed SLO with the objectives that were missed."""
    missed = ", ".join(check.name for check in checks if not check.kept)
    return VERDICTS[status] + (f" Not met: {missed}." if status == "missed" else "")
