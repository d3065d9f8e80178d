"""What Prometheus saw of a fault, and when: a metric by its expression, and any alert that was not there before."""

from __future__ import annotations

import asyncio
import contextlib
import time

from components import until

from hybridserve.errors import ServiceError
from hybridserve.observability.prometheus_client import Prometheus

# Two minutes are what the longest of these alerts looks back.
CALM_S = 180.0
# A fault must be seen by a metric within this time.
SEEN_S = 15.0
LOST = 'up{job="hybridserve"} == 0'


def replaced(metric: str) -> str:
    """Two processes exported what only one of them does at a time."""
    return f"count(count by (WorkerId) (last_over_time({metric}[2m]))) > 1"


class Watch:
    """Asks a Prometheus twice a second until it is left.

    Args:
        shows: PromQL that has a value when the fault is seen; None where there is nothing to see.
        alert: the alert, without its first word, whose rule must come to hold. Both must be silent before.
    """

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
        await until(self._calm, CALM_S, f"{self._shows} and {self._alert} hold before the fault")
        self._before = set(self._names())
        self._began = time.monotonic()
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def saw(self, alert: str) -> bool:
        return self.metric_s is not None and f"HybridServe{alert}" in self.alerts

    def _calm(self) -> bool:
        with contextlib.suppress(ServiceError):
            return not (self._shows and self._prometheus.now(self._shows)) and self._alert not in self._names()
        return False

    @property
    def seen(self) -> tuple[str, str]:
        """For the table."""
        metric = "-" if self.metric_s is None else f"{self.metric_s:.0f} s"
        alerts = [f"{name.removeprefix('HybridServe')} {at:.0f} s" for name, at in self.alerts.items()]
        return metric, ", ".join(alerts) or "-"

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(ServiceError):
                names = await asyncio.to_thread(self._names)
                if self.metric_s is None and self._shows and await asyncio.to_thread(self._prometheus.now, self._shows):
                    self.metric_s = time.monotonic() - self._began
                for name in names:
                    if name not in self._before:
                        self.alerts.setdefault(name, time.monotonic() - self._began)
            await asyncio.sleep(0.5)

    def _names(self) -> list[str]:
        """Alerts whose rule holds: pending ones too, which fire when it goes on for their time."""
        return [one["labels"]["alertname"] for one in self._prometheus.api("alerts")["alerts"]]


def known(prometheus: Prometheus, count: int) -> bool:
    """Whether it has read so many replicas of late: an alert on one that is lost is about one that it knew."""
    with contextlib.suppress(ServiceError):
        found = prometheus.now("count(hybridserve_build_info)")
        return bool(found) and found[0].points[-1][1] == count
    return False
