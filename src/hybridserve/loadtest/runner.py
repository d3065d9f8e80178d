"""One run: locust in a process of its own, then the records it left, judged."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hybridserve.errors import ConfigError, EnvironmentFault
from hybridserve.loadtest.client_health import Health, Window, judge
from hybridserve.loadtest.metrics import Summary, by_kind, by_level, saturation, summarise
from hybridserve.loadtest.preflight import ServerTarget
from hybridserve.loadtest.request_record import Record, read_records
from hybridserve.loadtest.scenario import Scenario, validate_scenario
from hybridserve.loadtest.session import KEY, RUN_FILE, RunFile
from hybridserve.loadtest.slo import Check, SLOStatus, gate, slo_status

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")


@dataclass(frozen=True, slots=True)
class Result:
    """One run, judged."""

    scenario: Scenario
    url: str
    model: str
    records: tuple[Record, ...]
    windows: tuple[Window, ...]
    summary: Summary
    health: Health
    checks: tuple[Check, ...]
    verdict: SLOStatus
    interrupted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Everything but the single requests."""
        limits = self.scenario.slo.limits
        levels = by_level(self.records, limits)
        return {
            "verdict": self.verdict,
            "interrupted": self.interrupted,
            "url": self.url,
            "model": self.model,
            "start": measured_span(self.records)[0],
            "about": self.scenario.about,
            "summary": self.summary.as_dict(),
            "client": asdict(self.health),
            "slo": {"limits": asdict(limits), "checks": [check.as_dict() for check in self.checks]},
            "by_level": {f"{level:g}": one.as_dict() for level, one in levels.items()},
            "saturation": saturation(levels),
            "by_kind": {kind: one.as_dict() for kind, one in by_kind(self.records, limits).items()},
            "scenario": self.scenario.model_dump(mode="json"),
        }


@dataclass(frozen=True, slots=True)
class Runner:
    """Where runs go: one server, one kind of client."""

    url: str
    key: str | None
    target: ServerTarget
    workers: int = 1
    metrics_port: int | None = None

    def run(self, scenario: Scenario, out: Path, progress: Callable[[float], None] = lambda _: None) -> Result:
        """Run the scenario and judge it. What was recorded stays in `out`, however it ends.

        Args:
            scenario: what to send.
            out: an empty or new folder.
            progress: called with seconds since the start, several times a second.

        Raises:
            ConfigError: `out` cannot be written, or holds another run; the port for metrics is taken.
            EnvironmentFault: locust is not installed, or it failed.
        """
        if self.metrics_port is not None:
            _ports_are_free(range(self.metrics_port, self.metrics_port + self.workers))
        try:
            out.mkdir(parents=True, exist_ok=True)
            if any(out.glob("requests-*.jsonl")):
                raise ConfigError("--out", f"{str(out)!r} holds another run", "give a new folder")
            scenario = scenario.fitted(self.target.max_model_len)
            run = RunFile(
                self.url,
                self.target.model,
                self.target.token_ids,
                str(out),
                self.workers,
                scenario.model_dump(mode="json"),
                self.metrics_port,
            )
            run.write(out / "run.json")
        except OSError as error:
            raise ConfigError("--out", f"{str(out)!r}: {error.strerror}", "a folder that can be written") from None
        interrupted = self._locust(scenario, out, progress)
        return judge_run(out, interrupted)

    def _locust(self, scenario: Scenario, out: Path, progress: Callable[[float], None]) -> bool:
        """Start locust and wait for it; True when it did not come to its end."""
        command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "--only-summary"]
        command += ["--host", self.url, "--exit-code-on-error", "0", "--loglevel", "WARNING"]
        if self.workers > 1:
            command += ["--processes", str(self.workers)]
        environment = {**os.environ, RUN_FILE: str(out / "run.json")}
        environment.pop(KEY, None)
        if self.key:
            environment[KEY] = self.key
        limit = scenario.warm_up + scenario.curve.seconds + scenario.drain + 30
        began, interrupted = time.monotonic(), False
        # locust has a session of its own, so that one Ctrl-C is ours to handle; nothing may leave it behind.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with (out / "locust.log").open("w") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            while process.poll() is None:
                try:
                    time.sleep(0.1)
                    progress(time.monotonic() - began)
                    if time.monotonic() - began > limit and scenario.trace is None:
                        raise KeyboardInterrupt
                except KeyboardInterrupt:
                    interrupted = True
                    os.killpg(process.pid, signal.SIGINT)
                    try:
                        process.wait(10)
                    except subprocess.TimeoutExpired:
                        os.killpg(process.pid, signal.SIGKILL)
                        process.wait()
        if process.returncode and not interrupted:
            if any(out.glob("requests-*.jsonl")):
                return True
            said = (out / "locust.log").read_text().strip().splitlines()
            if any("No module named locust" in line for line in said):
                raise EnvironmentFault("locust", "is not installed", "pip install 'hybridserve[loadtest]'")
            said = [line for line in said if "rror" in line] or said or ["nothing"]
            raise EnvironmentFault("locust", f"failed, and said: {said[0][:300]}", f"see {out / 'locust.log'}")
        return interrupted


def _ports_are_free(ports: Iterable[int]) -> None:
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError) as error:
                why = error.strerror if isinstance(error, OSError) else "no port"
                raise ConfigError("--metrics-port", f"{port}: {why}", "a free port; worker i takes it plus i") from None


def read_run(out: Path) -> tuple[RunFile, tuple[Record, ...], tuple[Window, ...]]:
    """What a run left in its folder.

    Raises:
        ConfigError: no run is there, or its files are not what they should be.
    """
    try:
        run = RunFile.read(out / "run.json")
        lines = [line for path in sorted(out.glob("requests-*.jsonl")) for line in path.open()]
        seen = [line for path in sorted(out.glob("client-*.jsonl")) for line in path.open() if line.endswith("\n")]
        return run, tuple(read_records(lines)), tuple(Window.from_json(line) for line in seen)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise ConfigError(str(out), f"holds no run that can be read ({what})", "give the --out of a run") from None


def judge_run(out: Path, interrupted: bool = False) -> Result:
    """Judge what a run left in its folder.

    Raises:
        ConfigError: as `read_run`.
    """
    run, records, windows = read_run(out)
    scenario = validate_scenario(run.scenario, str(out / "run.json"))
    summary = summarise(records, scenario.slo.limits)
    start, end = measured_span(records)
    health = judge(windows, summary, scenario.client, start, end, run.workers)
    checks = gate(summary, scenario.slo)
    judged = slo_status(checks, health)
    return Result(scenario, run.url, run.model, records, windows, summary, health, checks, judged, interrupted)


def measured_span(records: Sequence[Record]) -> tuple[float, float]:
    """First intended start and last end of what counts, in seconds since the epoch."""
    counted = [one for one in records if not one.warm_up]
    if not counted:
        return 0.0, 0.0
    return min(one.intended for one in counted), max(one.sent + one.end for one in counted)


def write_result(result: Result, out: Path) -> None:
    """result.json, requests.csv and vllm-bench.json beside the records."""
    from hybridserve.loadtest.export import to_csv, to_json, to_vllm_bench

    (out / "result.json").write_text(to_json(result.as_dict()))
    (out / "requests.csv").write_text(to_csv(result.records))
    (out / "vllm-bench.json").write_text(json.dumps(to_vllm_bench(result.records, result.summary, result.model)) + "\n")
