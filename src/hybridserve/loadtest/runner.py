"""One run: start locust as a process, then judge its records."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hybridserve.errors import ConfigError, EnvironmentFault
from hybridserve.loadtest.export import to_csv, to_vllm_bench
from hybridserve.loadtest.metrics import Summary, by_kind, by_level, saturation, summarize
from hybridserve.loadtest.prefix_reuse import read_change, read_counters, write_change
from hybridserve.loadtest.preflight import ServerTarget, preflight
from hybridserve.loadtest.request_record import Outcome, Record, read_records
from hybridserve.loadtest.scenario import Scenario, validate_scenario
from hybridserve.loadtest.session import KEY, RUN_FILE, RunFile
from hybridserve.loadtest.verdict import Check, Health, SLOStatus, Window, check_slo, client_health, slo_status

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
    left_out: Mapping[str, int]
    """Requests that no measure counts: those of the warm-up, and those without an answer when the run was stopped."""
    interrupted: bool = False
    prefix_reuse: dict[str, float] | None = None
    """Prompt tokens that the server reused and lost, from its counters; None if they were not read."""

    def as_dict(self) -> dict[str, Any]:
        """Everything except the requests."""
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
            "left_out": dict(self.left_out),
            "prefix_reuse": self.prefix_reuse,
            "client": asdict(self.health),
            "slo": {"limits": asdict(limits), "checks": [check.as_dict() for check in self.checks]},
            "by_level": {f"{level:g}": summary.as_dict() for level, summary in levels.items()},
            "saturation": saturation(levels),
            "by_kind": {kind: summary.as_dict() for kind, summary in by_kind(self.records, limits).items()},
            "scenario": self.scenario.model_dump(mode="json"),
        }


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs scenarios against one server."""

    url: str
    key: str | None
    target: ServerTarget
    workers: int = 1
    metrics_port: int | None = None
    replica_metrics: tuple[str, ...] = ()

    @classmethod
    def connect(
        cls,
        url: str,
        key: str | None,
        model: str | None,
        scenario: Scenario,
        workers: int = 1,
        metrics_port: int | None = None,
        replica_metrics: tuple[str, ...] = (),
    ) -> Runner:
        """Check the server first.

        Raises:
            ServiceError, ConfigError: as `preflight`.
        """
        return cls(url, key, preflight(url, key, model, scenario), workers, metrics_port, replica_metrics)

    def run(self, scenario: Scenario, out: Path, progress: Callable[[float], None] = lambda _: None) -> Result:
        """Run a scenario and judge it. The records stay in `out` in any case.

        Args:
            scenario: what to send.
            out: an empty or new folder.
            progress: called with seconds since the start, several times a second.

        Raises:
            ConfigError: `out` cannot be written or contains another run; the port for metrics is in use.
            EnvironmentFault: locust failed.
        """
        if self.metrics_port is not None:
            _check_ports(range(self.metrics_port, self.metrics_port + self.workers))
        try:
            out.mkdir(parents=True, exist_ok=True)
            if any(out.glob("requests-*.jsonl")):
                raise ConfigError("--out", f"{str(out)!r} contains another run", "use a new folder")
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
            raise ConfigError("--out", f"{str(out)!r}: {error.strerror}", "use a writable folder") from None
        before = read_counters(self.replica_metrics)
        interrupted = self._locust(scenario, out, progress)
        if self.replica_metrics:
            write_change(out, before, read_counters(self.replica_metrics))
        return judge_run(out, interrupted)

    def _locust(self, scenario: Scenario, out: Path, progress: Callable[[float], None]) -> bool:
        """Start locust and wait for it. Returns whether it was interrupted."""
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
        # locust runs in a new session, so that Ctrl-C reaches only this process, which then stops it.
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
            log_lines = (out / "locust.log").read_text().strip().splitlines()
            reasons = [line for line in log_lines if "rror" in line] or log_lines or ["no output"]
            raise EnvironmentFault("locust", f"exited with an error: {reasons[0][:300]}", f"see {out / 'locust.log'}")
        return interrupted


def _check_ports(ports: Iterable[int]) -> None:
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError) as error:
                why = error.strerror if isinstance(error, OSError) else "no port"
                raise ConfigError(
                    "--metrics-port", f"{port}: {why}", "use a free port; worker i uses this port plus i"
                ) from None


def read_run(out: Path) -> tuple[RunFile, tuple[Record, ...], tuple[Window, ...]]:
    """Read the files of a run.

    Raises:
        ConfigError: the folder has no run, or its files are invalid.
    """
    try:
        run = RunFile.read(out / "run.json")
        if "goodput" in (slo := run.scenario.get("slo", {})):  # the name before 0.2
            slo["attainment"] = slo.pop("goodput")
        lines = [line for path in sorted(out.glob("requests-*.jsonl")) for line in path.open()]
        windows = [line for path in sorted(out.glob("client-*.jsonl")) for line in path.open() if line.endswith("\n")]
        return run, tuple(read_records(lines)), tuple(map(Window.from_json, windows))
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise ConfigError(str(out), f"contains no readable run ({what})", "use the --out of a run") from None


def judge_run(out: Path, interrupted: bool = False) -> Result:
    """Judge the files of a run.

    Raises:
        ConfigError: as `read_run`.
    """
    run, records, windows = read_run(out)
    scenario = validate_scenario(run.scenario, str(out / "run.json"))
    summary = summarize(records, scenario.slo.limits)
    start, end = measured_span(records)
    health = client_health(windows, summary, scenario.client, start, end, run.workers)
    must_block = None
    if scenario.needs_guard:
        must_block = sum(record.expected is Outcome.GUARD and not record.warm_up for record in records)
    checks = check_slo(summary, scenario.slo, must_block)
    status = slo_status(checks, health)
    judged = (summary, health, checks, status, _left_out(out, records), interrupted, read_change(out))
    return Result(scenario, run.url, run.model, records, windows, *judged)


def _left_out(out: Path, records: Sequence[Record]) -> dict[str, int]:
    sent = sum(path.stat().st_size for path in out.glob("sent-*"))
    return {"warm_up": sum(record.warm_up for record in records), "unfinished": max(0, sent - len(records))}


def measured_span(records: Sequence[Record]) -> tuple[float, float]:
    """First intended start and last end after the warm-up, in seconds since the epoch."""
    spans = [(record.intended, record.sent + record.end) for record in records if not record.warm_up]
    return (min(start for start, _ in spans), max(end for _, end in spans)) if spans else (0.0, 0.0)


def write_result(result: Result, out: Path) -> None:
    """Write result.json, requests.csv and vllm-bench.json beside the records."""
    (out / "result.json").write_text(json.dumps(result.as_dict(), indent=2) + "\n")
    (out / "requests.csv").write_text(to_csv(result.records))
    (out / "vllm-bench.json").write_text(json.dumps(to_vllm_bench(result.records, result.summary, result.model)) + "\n")
