"""What one locust process needs to know about the run, and where it writes what it saw."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from hybridserve.loadtest.arrivals import arrivals, share
from hybridserve.loadtest.client import StreamingClient, now
from hybridserve.loadtest.prompts import PromptRequest, Prompts
from hybridserve.loadtest.request_record import Record
from hybridserve.loadtest.scenario import Scenario, validate_scenario

RUN_FILE = "LOADTEST_RUN"
KEY = "LOADTEST_API_KEY"


@dataclass(frozen=True, slots=True)
class RunFile:
    """One run, resolved: what the command hands to locust and its workers."""

    url: str
    model: str
    token_ids: tuple[int, int]
    out: str
    workers: int
    scenario: dict[str, Any]
    metrics_port: int | None = None

    def write(self, path: Path) -> None:
        """As JSON; the API key is not part of it."""
        path.write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> RunFile:
        tree = json.loads(path.read_text())
        tree["token_ids"] = tuple(tree["token_ids"])
        return cls(**tree)


class Session:
    """One locust process: draws requests, knows the time line, keeps records.

    Args:
        run: the run.
        worker: index of this process among the workers.
        key: sent with each request.
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
        self._out = 0
        self.sent_all = False
        """Open loop: the schedule is over, and all is answered."""
        out = Path(run.out)
        self._records: IO[str] = (out / f"requests-{worker}.jsonl").open("w", buffering=1)
        self.windows: IO[str] = (out / f"client-{worker}.jsonl").open("w", buffering=1)
        wanted = self.scenario.requests
        self._quota = None if wanted is None else wanted // run.workers + (worker < wanted % run.workers)

    def begin(self) -> None:
        """The clock of the run starts now."""
        self.start = now()

    @property
    def second(self) -> float:
        """Seconds since the end of the warm-up; negative before."""
        return now() - self.start - self.scenario.warm_up

    @property
    def finished(self) -> bool:
        """Everything was sent, and answered. The shutdown of locust stalls the event loop: nothing may be out then."""
        return self.sent_all or (self._over and not self._out)

    @property
    def _over(self) -> bool:
        """Nothing new shall be sent."""
        return self.second >= self.scenario.curve.seconds or (self._quota is not None and self._taken >= self._quota)

    def client(self) -> StreamingClient:
        """A connection of its own."""
        return StreamingClient(self._run.url, self._key, self.scenario.client.timeout_s, self.worker)

    def take(self) -> int | None:
        """The place of the next request among all; None when no more shall be sent."""
        if self._over:
            return None
        self._out += 1
        if self.second < 0:
            return -1
        self._taken += 1
        return (self._taken - 1) * self.workers + self.worker

    def ask(self, client: StreamingClient, request: PromptRequest, due: float | None = None) -> tuple[Record, str]:
        """Send, record, and say what came.

        Args:
            client: the connection.
            request: what to send.
            due: when it was meant to go, in seconds since the end of the warm-up; None means now.
        """
        second = self.second if due is None else due
        intended = None if due is None else self.start + self.scenario.warm_up + due
        # A trace has a rate of its own, whatever the curve of the scenario says.
        level = self.scenario.curve.at(max(second, 0.0)) if self.scenario.trace is None else 0.0
        answer = client.ask(request, intended, level=level, warm_up=second < 0)
        self.keep(answer.record)
        return answer.record, answer.text

    def keep(self, record: Record) -> None:
        """One line, on disk at once: a run that is killed keeps what it had."""
        self._records.write(record.to_json() + "\n")

    def answered(self) -> None:
        """What was taken has come to its end."""
        self._out -= 1

    def schedule(self) -> list[tuple[int, float, PromptRequest | None]]:
        """Open loop: (place, second, request) of this worker; a request only where a trace gives its lengths."""
        scenario = self.scenario
        if scenario.trace is not None:
            from hybridserve.simulator.traffic import read_trace

            rows = read_trace(scenario.trace)[: scenario.requests]
            mine = enumerate(rows[self.worker :: self.workers])
            factor = scenario.trace_scale
            return [
                (place, at, self.prompts.lengths(max(1, round(prompt * factor)), max(1, round(output * factor))))
                for place, (at, prompt, output) in mine
            ]
        times = arrivals(scenario.curve, scenario.arrivals, scenario.seed, scenario.warm_up)
        found: list[tuple[int, float, PromptRequest | None]] = []
        counted = 0
        for place, at in share(times, self.worker, self.workers):
            if self._quota is not None and at >= 0:
                if counted >= self._quota:
                    break
                counted += 1
            found.append((place, at, None))
        return found

    def close(self) -> None:
        """Close the files."""
        self._records.close()
        self.windows.close()
