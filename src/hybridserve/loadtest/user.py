"""The locust users and the load shape. Closed loop: request after request. Open loop: requests at their due time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gevent  # type: ignore[import-untyped]
from gevent.pool import Group  # type: ignore[import-untyped]
from locust import LoadTestShape, User, task
from locust.exception import StopUser

from hybridserve.loadtest.client import StreamingClient
from hybridserve.loadtest.prompts import Conversation, PromptRequest
from hybridserve.loadtest.request_record import Record
from hybridserve.loadtest.scenario import Scenario
from hybridserve.loadtest.session import Session

_BACK_OFF_S, _LONGEST_BACK_OFF_S = 0.25, 5.0


class StreamingUser(User):  # type: ignore[misc]
    """A user that streams answers and records each request. The locustfile sets `session`."""

    abstract = True
    session: ClassVar[Session]

    @classmethod
    def finished(cls) -> bool:
        """Whether the run of this process has begun, and everything was sent and answered."""
        return hasattr(cls, "session") and cls.session.finished

    def converse(self, client: StreamingClient, next_: PromptRequest | Conversation, due: float | None = None) -> None:
        """Send a request, or all turns of a conversation. Only its first request has a due time."""
        if isinstance(next_, PromptRequest):
            self.report(self.session.send(client, next_, due)[0])
            return
        prompts = self.session.prompts
        while not next_.over:
            record, text = self.session.send(client, prompts.turn(next_), due if next_.turn == 0 else None)
            self.report(record)
            if not record.ok:
                return
            next_.answered(text)
            if not next_.over and (pause := prompts.pause(next_.kind)):
                gevent.sleep(pause)

    def report(self, record: Record) -> None:
        """Report to locust's own statistics and page. After a failure wait, so that a dead server is not flooded."""
        fault = None if record.as_expected else RuntimeError(f"{record.outcome}: {record.detail}")
        times = {"E2E": record.e2e} if record.ttft is None else {"E2E": record.e2e, "TTFT": record.ttft}
        for name, seconds in times.items():
            about: dict[str, Any] = {"response_length": 0, "exception": None, "context": {}}
            if name == "E2E":
                about |= {"response_length": record.output_tokens, "exception": fault, "record": record}
            self.environment.events.request.fire(
                request_type=name, name=record.kind, response_time=seconds * 1000, **about
            )
        if fault is not None:
            gevent.sleep(min(record.retry_after or _BACK_OFF_S, _LONGEST_BACK_OFF_S))


class ClosedLoop(StreamingUser):
    """Sends the next request when the answer is complete."""

    def on_start(self) -> None:
        self._client = self.session.client()

    @task  # type: ignore[untyped-decorator]
    def send(self) -> None:
        """One request or conversation."""
        index = self.session.take()
        if index is None:
            raise StopUser
        try:
            self.converse(self._client, self.session.prompts.next(max(index, 0)))
        finally:
            self.session.release()

    def on_stop(self) -> None:
        self._client.close()


class OpenLoop(StreamingUser):
    """Sends requests when they are due, without waiting for answers. locust runs one such user for each worker."""

    def on_start(self) -> None:
        self._idle: list[StreamingClient] = []
        self._open = Group()
        self._schedule = self.session.schedule()

    @task  # type: ignore[untyped-decorator]
    def send(self) -> None:
        """The whole schedule, then the open answers."""
        for index, due, request in self._schedule:
            if (wait := due - self.session.second) > 0:
                gevent.sleep(wait)
            self._open.spawn(self._send, index, due, request)
        self._open.join()
        self.session.schedule_done = True
        raise StopUser

    def _send(self, index: int, due: float, request: PromptRequest | None) -> None:
        client = self._idle.pop() if self._idle else self.session.client()
        try:
            self.converse(client, request or self.session.prompts.next(index), due)
        finally:
            self._idle.append(client)

    def on_stop(self) -> None:
        # locust stops the users when the shape ends, and waits --stop-timeout for this.
        self._open.join()
        for client in self._idle:
            client.close()


class CurveShape(LoadTestShape):  # type: ignore[misc]
    """Follows the curve of a scenario: its users in a closed loop, one dispatcher for each worker in an open loop.

    Args:
        scenario: gives curve, warm-up and mode.
        workers: number of sending processes.
        finished: whether every request was sent and answered.
    """

    # locust creates an instance of every shape in a locustfile, except of abstract ones.
    abstract = True

    def __init__(self, scenario: Scenario, workers: int, finished: Callable[[], bool]) -> None:
        super().__init__()
        self._scenario = scenario
        self._workers = workers
        self._finished = finished

    def tick(self) -> tuple[int, float] | None:
        """Number of users, and how many to start per second; None at the end."""
        scenario = self._scenario
        second = self.get_run_time() - scenario.warm_up
        if self._finished() or (second >= scenario.curve.seconds + scenario.drain and scenario.trace is None):
            return None
        if scenario.mode == "open":
            return self._workers, self._workers
        # Users stop by themselves at the end of the curve; a change of level would start them again.
        users = max(1, round(scenario.curve.at(min(max(second, 0.0), scenario.curve.seconds - 1e-6))))
        return users, max(users, self._workers)
