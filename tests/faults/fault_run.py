"""A fault under load: what clients and a Prometheus observed, as a row of docs/evidence/faults.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load import LoadGenerator
from processes import open_requests, until

from hybridserve.errors import ServiceError
from hybridserve.observability.prometheus_api import Prometheus

# The longest of the alerts evaluates two minutes.
CALM_S = 180.0
# A metric must show a fault within this time.
SEEN_S = 15.0
SCRAPE_FAILED = 'up{job="hybridserve"} == 0'


@dataclass
class Row:
    """A row of the table. Times are seconds from the fault; `metric` and `alert` are what Prometheus observed."""

    fault: str
    requests: int
    finished: int
    error_returned: int
    connection_broken: int
    ended_without_done: int
    in_flight: int
    first_failure_s: float | None
    last_failure_s: float | None
    recovered_s: float | None
    metric: str
    alert: str

    @property
    def harmed(self) -> int:
        return self.error_returned + self.connection_broken + self.ended_without_done


class FaultRun:
    """The load during a fault.

    `recovered()` marks the time at which the service works as before, `replaced()` that at which a metric of the new
    process can show that the old one is gone.
    """

    row: Row

    def __init__(self, load: LoadGenerator, watch: Watch) -> None:
        self.load = load
        self.watch = watch
        self.in_flight = len(load.log.open)
        self.began = time.monotonic()
        self.recovered_s: float | None = None
        self.replaced_s = 0.0

    def replaced(self) -> None:
        self.replaced_s = time.monotonic() - self.began

    def recovered(self) -> None:
        self.recovered_s = time.monotonic() - self.began

    def finish(self, fault: str) -> None:
        """Make the row, and append it to the file named by FAULT_ROWS."""
        counts = self.load.log.counts()
        failures = [entry.ended - self.began for entry in self.load.log.failed() if entry.ended >= self.began]
        self.row = Row(
            fault=fault,
            requests=len(self.load.log.entries),
            finished=counts["finished"],
            error_returned=counts["error_returned"],
            connection_broken=counts["connection_broken"] + counts["refused"],
            ended_without_done=counts["ended_without_done"],
            in_flight=self.in_flight,
            first_failure_s=round(min(failures), 2) if failures else None,
            last_failure_s=round(max(failures), 2) if failures else None,
            recovered_s=None if self.recovered_s is None else round(self.recovered_s, 1),
            metric=self.watch.observed[0],
            alert=self.watch.observed[1],
        )
        print(self.row)
        if name := os.environ.get("FAULT_ROWS"):
            with Path(name).open("a") as lines:
                lines.write(json.dumps(asdict(self.row)) + "\n")


@asynccontextmanager
async def fault_under_load(
    watched: Any, fault: str, load: LoadGenerator, alert: str | None = None, shows: str | None = None,
    stays_up: bool = True,
) -> AsyncIterator[FaultRun]:  # fmt: skip
    """Run the body, which causes the fault and waits for recovery, under load; check what must hold after any fault.

    Args:
        alert: the alert, without its prefix, whose condition must become true; None for a fault that harms nobody.
        shows: PromQL that has a value when the fault is visible. It must have one within `SEEN_S` of the fault, or of
            the new process where the body calls `replaced()`: how long that takes to start is the machine's speed.
        stays_up: whether the service runs afterwards, with every slot free.
    """
    async with load, Watch(watched.prometheus, shows, alert) as watch:
        await load.wait_for_finished(2 * load.clients, 120)
        run = FaultRun(load, watch)
        yield run
        if alert:
            await until(lambda: watch.saw(alert), 60, f"{fault}: not visible in metric and alert, {watch.observed}")
    run.finish(fault)
    assert run.row.ended_without_done == 0, run.row
    if alert:
        assert watch.metric_s is not None
        assert watch.metric_s < run.replaced_s + SEEN_S, run.row
    if stays_up:
        await until(lambda: open_requests(watched.service) == 0, 60, f"{fault}: a slot is still taken")


def replaced(metric: str) -> str:
    """PromQL: two processes exported a metric that a single process exports at a time."""
    return f"count(count by (WorkerId) (last_over_time({metric}[2m]))) > 1"


def known(prometheus: Prometheus, count: int) -> bool:
    """Whether Prometheus has scraped `count` replicas recently."""
    with contextlib.suppress(ServiceError):
        found = prometheus.query("count(hybridserve_build_info)")
        return bool(found) and found[0].points[-1][1] == count
    return False


class Watch:
    """Queries a Prometheus twice a second for `shows` and for alerts that were not active before."""

    def __init__(self, prometheus: Prometheus, shows: str | None, alert: str | None = None) -> None:
        self._prometheus = prometheus
        self._shows = shows
        self._alert = f"HybridServe{alert}"
        self._began = 0.0
        self._before: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self.metric_s: float | None = None
        self.alerts: dict[str, float] = {}

    async def __aenter__(self) -> Watch:
        await until(self._calm, CALM_S, f"{self._shows} or {self._alert} is true before the fault")
        self._before = set(self._names())
        self._began = time.monotonic()
        self._task = asyncio.create_task(self._poll())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def saw(self, alert: str) -> bool:
        return self.metric_s is not None and f"HybridServe{alert}" in self.alerts

    @property
    def observed(self) -> tuple[str, str]:
        """Metric and alerts with their times, for the table."""
        metric = "-" if self.metric_s is None else f"{self.metric_s:.0f} s"
        alerts = [f"{name.removeprefix('HybridServe')} {at:.0f} s" for name, at in self.alerts.items()]
        return metric, ", ".join(alerts) or "-"

    def _calm(self) -> bool:
        with contextlib.suppress(ServiceError):
            return not (self._shows and self._prometheus.query(self._shows)) and self._alert not in self._names()
        return False

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(ServiceError):
                names = await asyncio.to_thread(self._names)
                if (
                    self.metric_s is None
                    and self._shows
                    and await asyncio.to_thread(self._prometheus.query, self._shows)
                ):
                    self.metric_s = time.monotonic() - self._began
                for name in names:
                    if name not in self._before:
                        self.alerts.setdefault(name, time.monotonic() - self._began)
            await asyncio.sleep(0.5)

    def _names(self) -> list[str]:
        """Pending and firing alerts."""
        return [alert["labels"]["alertname"] for alert in self._prometheus.api("alerts")["alerts"]]
