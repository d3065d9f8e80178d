"""The locust users: closed loop, one request after another; open loop, requests when they are due, answered or not."""

from __future__ import annotations

from typing import Any, ClassVar

import gevent  # type: ignore[import-untyped]
from gevent.pool import Group  # type: ignore[import-untyped]
from locust import User, task
from locust.exception import StopUser

from hybridserve.loadtest.client import StreamingClient
from hybridserve.loadtest.prompts import Conversation, PromptRequest
from hybridserve.loadtest.request_record import Record
from hybridserve.loadtest.session import Session

_BACK_OFF_S, _LONGEST_BACK_OFF_S = 0.25, 5.0


class StreamingUser(User):  # type: ignore[misc]
    """A user that streams answers and keeps a record of each. `session` is set by the locustfile."""

    abstract = True
    session: ClassVar[Session]

    @classmethod
    def finished(cls) -> bool:
        """The run of this process has begun, and everything was sent and answered."""
        return hasattr(cls, "session") and cls.session.finished

    def talk(self, client: StreamingClient, asked: PromptRequest | Conversation, due: float | None = None) -> None:
        """One request, or one conversation to its end. Only the first request of a conversation has a due time."""
        if isinstance(asked, PromptRequest):
            record = self.session.ask(client, asked, due)[0]
            self.report(record)
            self.back_off(record)
            return
        prompts = self.session.prompts
        while not asked.over:
            record, text = self.session.ask(client, prompts.turn(asked), due if asked.turn == 0 else None)
            self.report(record)
            if not record.ok:
                self.back_off(record)
                return
            asked.answered(text)
            if not asked.over and (pause := prompts.pause(asked.kind)):
                gevent.sleep(pause)

    def report(self, record: Record) -> None:
        """Tell locust, for its own statistics and page; ours are made from the records."""
        fault = None if record.as_expected else RuntimeError(f"{record.outcome}: {record.detail}")
        fire = self.environment.events.request.fire
        about: dict[str, Any] = {"response_length": record.output_tokens, "exception": fault, "context": {}}
        fire(request_type="E2E", name=record.kind, response_time=record.e2e * 1000, record=record, **about)
        if record.ttft is not None:
            fire(
                request_type="TTFT",
                name=record.kind,
                response_time=record.ttft * 1000,
                response_length=0,
                exception=None,
                context={},
            )

    def back_off(self, record: Record) -> None:
        """Wait a little after a failure, or what the server asked for: a dead one is not to be flooded."""
        if not record.as_expected:
            gevent.sleep(min(record.retry_after or _BACK_OFF_S, _LONGEST_BACK_OFF_S))


class ClosedLoop(StreamingUser):
    """Asks, reads to the end, asks again."""

    def on_start(self) -> None:
        self._client = self.session.client()

    @task  # type: ignore[untyped-decorator]
    def ask(self) -> None:
        """One request or conversation."""
        place = self.session.take()
        if place is None:
            raise StopUser
        try:
            self.talk(self._client, self.session.prompts.next(max(place, 0)))
        finally:
            self.session.answered()

    def on_stop(self) -> None:
        self._client.close()


class OpenLoop(StreamingUser):
    """Sends when it is due. One of these is a whole crowd: locust needs one for each worker."""

    def on_start(self) -> None:
        self._idle: list[StreamingClient] = []
        self._out = Group()
        self._schedule = self.session.schedule()

    @task  # type: ignore[untyped-decorator]
    def send(self) -> None:
        """The whole schedule, then the answers that are still out."""
        for place, due, request in self._schedule:
            if (wait := due - self.session.second) > 0:
                gevent.sleep(wait)
            self._out.spawn(self._one, place, due, request)
        self._out.join()
        self.session.sent_all = True
        raise StopUser

    def _one(self, place: int, due: float, request: PromptRequest | None) -> None:
        client = self._idle.pop() if self._idle else self.session.client()
        try:
            self.talk(client, request or self.session.prompts.next(place), due)
        finally:
            self._idle.append(client)

    def on_stop(self) -> None:
        # locust ends users of a shape that is over, and waits --stop-timeout for this.
        self._out.join()
        for client in self._idle:
            client.close()
