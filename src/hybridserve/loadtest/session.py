"""The state of one locust process: the schedule, the clock of the run, and the files of records."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from hybridserve.loadtest.client import StreamingClient, now
from hybridserve.loadtest.load_curve import arrivals, share
from hybridserve.loadtest.prompts import PromptRequest, Prompts
from hybridserve.loadtest.request_record import Record
from hybridserve.loadtest.scenario import Scenario, validate_scenario

RUN_FILE = "LOADTEST_RUN"
KEY = "LOADTEST_API_KEY"


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run as the command passes it to locust and its workers. The API key is not part of it."""

    url: str
    model: str
    token_ids: tuple[int, int]
    out: str
    workers: int
    scenario: dict[str, Any]
    metrics_port: int | None = None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> RunFile:
        tree = json.loads(path.read_text())
        tree["token_ids"] = tuple(tree["token_ids"])
        return cls(**tree)


class Session:
    """One locust process: generates requests, follows the schedule, writes records.

    Args:
        run: the run.
        worker: index of this process among the workers.
        key: API key for each request.
    """

    def __init__(self, run: RunFile, worker: int, key: str | None) -> None:
        self.scenario: Scenario = validate_scenario(run.scenario, "scenario")
        self.worker = worker
        self.workers = run.workers
        self._run = run
        self._key = key
        self.prompts = Prompts(self.scenario, run.model, run.token_ids, worker)
        self.start = now()
        self._taken = 0
        self._open = 0
        self.schedule_done = False
        """Open loop: everything was sent and answered."""
        out = Path(run.out)
        self._records: IO[str] = (out / f"requests-{worker}.jsonl").open("w", buffering=1)
        self._sent: IO[bytes] = (out / f"sent-{worker}").open("wb", buffering=0)
        """A dot for each request, written before it: a run that is stopped leaves requests without a record."""
        self.windows: IO[str] = (out / f"client-{worker}.jsonl").open("w", buffering=1)
        total = self.scenario.requests
        self._quota = None if total is None else total // run.workers + (worker < total % run.workers)

    @property
    def second(self) -> float:
        """Seconds since the end of the warm-up; negative before."""
        return now() - self.start - self.scenario.warm_up

    @property
    def finished(self) -> bool:
        """Everything was sent and answered. locust stalls the event loop when it stops: no request may be open then."""
        return self.schedule_done or (self._over and not self._open)

    @property
    def _over(self) -> bool:
        """Whether no further request is due."""
        return self.second >= self.scenario.curve.seconds or (self._quota is not None and self._taken >= self._quota)

    def client(self) -> StreamingClient:
        """A new connection."""
        return StreamingClient(self._run.url, self._key, self.scenario.client.timeout_s, self.worker)

    def take(self) -> int | None:
        """Closed loop: the index of the next request of all workers; None when no further request is due."""
        if self._over:
            return None
        self._open += 1
        if self.second < 0:
            return -1
        self._taken += 1
        return (self._taken - 1) * self.workers + self.worker

    def release(self) -> None:
        """Closed loop: the request of `take` has ended."""
        self._open -= 1

    def send(self, client: StreamingClient, request: PromptRequest, due: float | None = None) -> tuple[Record, str]:
        """Send a request and write its record at once. Returns the record and the text of the answer.

        Args:
            client: the connection.
            request: what to send.
            due: scheduled start, in seconds since the end of the warm-up; None for now.
        """
        second = self.second if due is None else due
        intended = None if due is None else self.start + self.scenario.warm_up + due
        # The rate of a trace does not follow the curve.
        level = self.scenario.curve.at(max(second, 0.0)) if self.scenario.trace is None else 0.0
        self._sent.write(b".")
        answer = client.send(request, intended, level=level, warm_up=second < 0)
        self._records.write(answer.record.to_json() + "\n")
        return answer.record, answer.text

    def schedule(self) -> list[tuple[int, float, PromptRequest | None]]:
        """Open loop: (index, second, request) for this worker. Only a trace determines the request."""
        scenario = self.scenario
        if scenario.trace is not None:
            from hybridserve.simulator.traffic import read_trace

            rows = read_trace(scenario.trace)[: scenario.requests][self.worker :: self.workers]
            factor = scenario.trace_scale
            return [
                (index, due, self.prompts.lengths(max(1, round(prompt * factor)), max(1, round(output * factor))))
                for index, (due, prompt, output) in enumerate(rows)
            ]
        times = arrivals(scenario.curve, scenario.arrivals, scenario.seed, scenario.warm_up)
        found: list[tuple[int, float, PromptRequest | None]] = []
        counted = 0
        for index, due in share(times, self.worker, self.workers):
            counted += due >= 0
            if self._quota is not None and counted > self._quota:
                break
            found.append((index, due, None))
        return found

    def close(self) -> None:
        """Close the files."""
        self._records.close()
        self._sent.close()
        self.windows.close()
