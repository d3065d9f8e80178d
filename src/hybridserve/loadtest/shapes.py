"""The load shape of a scenario, as locust wants it: so many users now, or none and it is over."""

from __future__ import annotations

from collections.abc import Callable

from locust import LoadTestShape

from hybridserve.loadtest.scenario import Scenario


class CurveShape(LoadTestShape):  # type: ignore[misc]
    """Follows the curve of a scenario: its users in a closed loop, one dispatcher a worker in an open one.

    Args:
        scenario: gives curve, warm-up and mode.
        workers: processes that send.
        finished: True when every request that was to be sent has been answered.
    """

    def __init__(self, scenario: Scenario, workers: int, finished: Callable[[], bool]) -> None:
        super().__init__()
        self._scenario = scenario
        self._workers = workers
        self._finished = finished

    def tick(self) -> tuple[int, float] | None:
        """Users, and how many to add in a second: all at once."""
        scenario = self._scenario
        second = self.get_run_time() - scenario.warm_up
        if self._finished() or (second >= scenario.curve.seconds + scenario.drain and scenario.trace is None):
            return None
        if scenario.mode == "open":
            return self._workers, self._workers
        # Users end by themselves where the curve ends; another level then would bring them back.
        users = max(1, round(scenario.curve.at(min(max(second, 0.0), scenario.curve.seconds - 1e-6))))
        return users, max(users, self._workers)
