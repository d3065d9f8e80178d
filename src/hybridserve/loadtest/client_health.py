"""Is the client itself the bottleneck? Lag of its event loop and its share of a core, all the while."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

from hybridserve.loadtest.metrics import Summary
from hybridserve.loadtest.scenario import Client
from hybridserve.quantiles import interpolated

PROBE_S = 0.01
WINDOW_S = 0.5


@dataclass(frozen=True, slots=True)
class Window:
    """About half a second of one worker."""

    at: float
    """Its end, seconds since the epoch."""
    worker: int
    cpu: float
    """Share of one core."""
    lags: tuple[float, ...]
    """Seconds that each probe came late."""

    def to_json(self) -> str:
        return json.dumps([round(self.at, 3), self.worker, round(self.cpu, 4), [round(one, 5) for one in self.lags]])

    @classmethod
    def from_json(cls, line: str) -> Window:
        at, worker, cpu, lags = json.loads(line)
        return cls(at, worker, cpu, tuple(lags))


class Probe:
    """Collects windows. `sleep` gives the event loop to others and returns as soon as it is ours again."""

    def __init__(self, worker: int, clock: Any) -> None:
        self._worker = worker
        self._clock = clock

    def windows(self, sleep: Any) -> Iterable[Window]:
        """Windows without end."""
        while True:
            began, used, lags = perf_counter(), process_time(), []
            while perf_counter() - began < WINDOW_S:
                before = perf_counter()
                sleep(PROBE_S)
                lags.append(max(0.0, perf_counter() - before - PROBE_S))
            share = (process_time() - used) / (perf_counter() - began)
            yield Window(self._clock(), self._worker, share, tuple(lags))


@dataclass(frozen=True, slots=True)
class Health:
    """The client over the measured part of a run."""

    workers: int
    cpu: float
    """Mean share of one core, of the busiest worker."""
    lag_p50: float
    lag_p99: float
    tokens_per_s: float
    """Streamed by the busiest worker, were the load shared evenly."""
    faults: tuple[str, ...]
    """Why the run is void; empty when it is not."""

    @property
    def valid(self) -> bool:
        return not self.faults


_SILENT_S = 10.0


def judge(
    windows: Iterable[Window], summary: Summary, rules: Client, start: float, end: float, expected: int = 1
) -> Health:
    """Judge the windows that end between `start` and `end` (seconds since the epoch).

    A late event loop reads tokens late: TTFT grows, and tokens then come in a lump. So percentiles of the lag are held
    against the same ones of TTFT. No windows at all is a fault too: an unwatched client is not a healthy one. Nor is
    one with fewer workers than the `expected` ones, or with one that fell silent: what it should have sent is missing.
    """
    windows = tuple(windows)
    seen = [one for one in windows if start <= one.at - WINDOW_S / 2 <= end] or [
        one for one in windows if start <= one.at
    ][:1]
    if not seen:
        return Health(0, 0.0, 0.0, 0.0, 0.0, ("the client was not watched",))
    workers = sorted({one.worker for one in seen})
    lags = sorted(lag for one in seen for lag in one.lags)
    cpu = 0.0
    for worker in workers:
        mine = [one.cpu for one in seen if one.worker == worker]
        cpu = max(cpu, sum(mine) / len(mine))
    p50, p99 = interpolated(lags, 0.5), interpolated(lags, 0.99)
    rate = summary.output_throughput / len(workers)
    faults = []
    last = {one.worker: one.at for one in sorted(windows, key=lambda one: one.at)}
    if len(last) < expected:
        faults.append(f"{len(last)} of {expected} workers were heard of")
    for worker, at in last.items():
        if end - at > _SILENT_S:
            faults.append(f"worker {worker} fell silent {at - start:.0f} s after the start")
    if cpu > rules.max_cpu:
        faults.append(f"a worker used {cpu:.0%} of its core (limit {rules.max_cpu:.0%})")
    if rate > rules.max_tokens_per_s:
        faults.append(f"{rate:,.0f} streamed tokens/s on one worker (limit {rules.max_tokens_per_s:,.0f})")
    ttft, late = summary.ttft, summary.schedule_lag
    if ttft is not None and late is not None:
        # Of few requests the 99th percentile is the one that had bad luck.
        rank = 99 if ttft.sure(99) else 90
        for name, lag, whole in (
            ("the event loop was", p50, ttft.p50),
            ("the event loop was", interpolated(lags, rank / 100), getattr(ttft, f"p{rank}")),
            ("requests left", late.p50, ttft.p50),
            ("requests left", getattr(late, f"p{rank}"), getattr(ttft, f"p{rank}")),
        ):
            limit = max(rules.lag_floor_s, rules.max_lag_share * whole)
            if lag > limit:
                where = "median" if whole == ttft.p50 else f"p{rank}"
                faults.append(f"{name} {lag * 1000:.0f} ms late ({where}; limit {limit * 1000:.0f} ms)")
    return Health(len(workers), cpu, p50, p99, rate, tuple(faults))
