"""The locustfile: users, shape and options of a run.

`hybridserve loadtest` starts locust with this file and passes the run in a JSON file. In locust itself:

    locust -f loadtests/scenarios.py --host http://127.0.0.1:8000 --scenario chat --headless

The scenario determines users and duration; records go to --out; files, report and exit code are those of the command.
The key is read from LOADTEST_API_KEY. Workers on other machines keep their records: copy `requests-*.jsonl`,
`client-*.jsonl` and `sent-*` beside the master's run.json, and `hybridserve loadtest --report` judges them.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from hybridserve.errors import HybridServeError
from hybridserve.loadtest import export
from hybridserve.loadtest.client import now
from hybridserve.loadtest.preflight import preflight
from hybridserve.loadtest.scenario import load_scenario, validate_scenario
from hybridserve.loadtest.session import KEY, RUN_FILE, RunFile, Session
from hybridserve.loadtest.user import ClosedLoop, CurveShape, OpenLoop, StreamingUser
from hybridserve.loadtest.verdict import EXIT_CODES, verdict_text, watch_client

_FINISHED = "hybridserve-finished"

__all__ = ["ClosedLoop", "OpenLoop"]


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("hybridserve", "scenario and output")
    group.add_argument("--scenario", default="chat", help="name of a scenario, or a file")
    group.add_argument("--model", default=None, help="served name; default: the first of /v1/models")
    group.add_argument("--scale", type=float, default=1.0, help="multiplies all token counts")
    group.add_argument(
        "--seconds", type=float, default=0.0, help="duration after the warm-up, as --run-time; 0: the scenario's"
    )
    group.add_argument("--out", default="loadtest-out", help="folder for the records")
    group.add_argument("--client-workers", type=int, default=1, help="number of workers; set by the master")
    group.add_argument("--client-metrics-port", type=int, default=0, help="port for Prometheus; 0 for none")


def _run(environment: Environment) -> RunFile:
    if path := os.environ.get(RUN_FILE):
        return RunFile.read(Path(path))
    options = environment.parsed_options
    url = environment.host or options.host or "http://127.0.0.1:8000"
    scenario = load_scenario(options.scenario).scaled(options.scale)
    if options.seconds:
        scenario = scenario.lasting(options.seconds)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    about = preflight(url, os.environ.get(KEY), options.model, scenario)
    tree = scenario.fitted(about.max_model_len).model_dump(mode="json")
    port = options.client_metrics_port or None
    return RunFile(url, about.model, about.token_ids, str(out), options.client_workers, tree, port)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _init(environment: Environment, runner: Any, **_: Any) -> None:
    """Choose the user class and the shape, once the options are known."""
    if isinstance(runner, WorkerRunner):
        # The options arrive from the master with the first users.
        environment.events.test_start.add_listener(lambda **_: _begin(_resolved(environment), runner))
        return
    if isinstance(runner, MasterRunner):
        environment.parsed_options.client_workers = max(1, environment.parsed_options.expect_workers)
    options = environment.parsed_options
    if RUN_FILE not in os.environ and options.run_time:
        # Of the load: locust's own limit would also end the open answers, and counts from the end of the shape.
        options.seconds, options.run_time = float(options.run_time), None
    run = _resolved(environment)
    if RUN_FILE not in os.environ:
        _plain_locust(environment, run)
    scenario = validate_scenario(run.scenario, "scenario")
    environment.user_classes = [OpenLoop if scenario.mode == "open" else ClosedLoop]
    environment.stop_timeout = scenario.drain
    if isinstance(runner, MasterRunner):
        finished: set[int] = set()
        runner.register_message(_FINISHED, lambda msg, **_: finished.add(msg.data["worker"]))
        environment.shape_class = CurveShape(scenario, run.workers, lambda: len(finished) >= run.workers)
        return
    environment.shape_class = CurveShape(scenario, 1, StreamingUser.finished)
    environment.events.test_start.add_listener(lambda **_: _begin(run, runner))


def _plain_locust(environment: Environment, run: RunFile) -> None:
    """Without the command, locust writes the same files at the end."""
    out = Path(run.out)
    if any(out.glob("requests-*.jsonl")):
        raise SystemExit(f"error: --out: {run.out!r} contains another run (use a new folder)")
    run.write(out / "run.json")
    environment.events.quitting.add_listener(_conclude)


def _conclude(environment: Environment, **_: Any) -> None:
    """Judge the records, write the report, set the exit code."""
    from hybridserve.loadtest.report import write_report
    from hybridserve.loadtest.runner import judge_run, write_result

    out = Path(environment.parsed_options.out)
    if not any(out.glob("requests-*.jsonl")):
        print(f"no records in {out}: copy them from the workers, then run hybridserve loadtest --report")
        return
    result = judge_run(out)
    write_result(result, out)
    write_report(result, out, f"Load test: {Path(environment.parsed_options.scenario).stem}")
    print("\n".join([*result.health.faults, verdict_text(result.verdict, result.checks), str(out / "report.html")]))
    environment.process_exit_code = EXIT_CODES[result.verdict]


def _resolved(environment: Environment) -> RunFile:
    try:
        return _run(environment)
    except HybridServeError as error:
        raise SystemExit(f"error: {error}") from None


def _begin(run: RunFile, runner: Any) -> None:
    """Before the users of this process start."""
    worker = max(0, runner.worker_index) if isinstance(runner, WorkerRunner) else 0
    runner.environment.stop_timeout = run.scenario["drain"]
    # After a second start on locust's page the port is open already.
    if run.metrics_port and not hasattr(StreamingUser, "session"):
        export.serve(run.metrics_port + worker, runner.environment)
    StreamingUser.session = session = Session(run, worker, os.environ.get(KEY))
    # The garbage collector must not scan existing objects while tokens are timed.
    gc.freeze()
    gevent.spawn(_watch, session)
    if isinstance(runner, WorkerRunner):
        gevent.spawn(_report_finished, session, runner)


def _watch(session: Session) -> None:
    for window in watch_client(session.worker, now, gevent.sleep):
        session.windows.write(window.to_json() + "\n")


def _report_finished(session: Session, runner: WorkerRunner) -> None:
    while not session.finished:
        gevent.sleep(0.2)
    runner.send_message(_FINISHED, {"worker": session.worker})
