"""What `hybridserve loadtest` does: one run, or the report of an earlier one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hybridserve.errors import ConfigError
from hybridserve.loadtest import report
from hybridserve.loadtest.preflight import preflight
from hybridserve.loadtest.runner import Result, Runner, judge_run, write_result
from hybridserve.loadtest.scenario import Scenario
from hybridserve.loadtest.slo import EXIT_CODES


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes, and from how many processes."""

    url: str
    key: str | None
    model: str | None
    workers: int
    metrics_port: int | None

    def bench(self, scenario: Scenario) -> Runner:
        """Ask the server first.

        Raises:
            ServiceError, ConfigError: as `preflight`.
        """
        about = preflight(self.url, self.key, self.model, scenario)
        return Runner(self.url, self.key, about, self.workers, self.metrics_port)


def run_once(target: Target, scenario: Scenario, out: Path, name: str, as_json: bool) -> int:
    """One run, its files and its table; the exit code."""
    return conclude(run(target.bench(scenario), scenario, out, name, as_json), out, name, as_json)


def report_run(out: Path, as_json: bool) -> int:
    """Judge a folder of records: of plain locust, of a run that was killed, gathered from several machines."""
    result = judge_run(out)
    if not result.records:
        raise ConfigError("--report", f"{str(out)!r} has no requests", "give the --out of a run")
    return conclude(result, out, out.resolve().name, as_json)


def conclude(result: Result, out: Path, name: str, as_json: bool) -> int:
    """Files, table, exit code."""
    write_result(result, out)
    note = report.write_report(result, out, f"Load test: {name}")
    if as_json:
        typer.echo(json.dumps({**result.as_dict(), "out": str(out)}, indent=2))
    else:
        _show_result(result)
        typer.echo(f"{out / 'report.html'}" + (f" ({note})" if note else ""))
    return EXIT_CODES[result.verdict]


def run(bench: Runner, scenario: Scenario, out: Path, name: str, quiet: bool) -> Result:
    """One run, with a progress bar on a terminal."""
    console = Console(stderr=True, quiet=quiet or not Console(stderr=True).is_terminal)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(name, total=scenario.warm_up + scenario.curve.seconds)
        step: Callable[[float], None] = lambda second: bar.update(task, completed=second)  # noqa: E731
        return bench.run(scenario, out, step)


def _show_result(result: Result) -> None:
    table = Table(title="Latency, milliseconds", title_justify="left")
    for name in ("", "mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(name, justify="right" if name else "left")
    for name, words in report.MEASURES.items():
        spread = getattr(result.summary, name)
        if spread is not None:
            cells = (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99, spread.max)
            table.add_row(words, *(f"{cell * 1000:,.2f}" for cell in cells))
    console().print(table)
    for name, value in report.counts(result).items():
        typer.echo(f"{name:<36}{value}")
    for check in result.checks:
        value = "not measured" if check.value is None else f"{check.value:.4g}"
        typer.echo(f"{check.name:<36}{value} (limit {check.limit:g}) {'kept' if check.kept else 'MISSED'}")
    for fault in result.health.faults:
        typer.echo(f"client: {fault}; try --workers, or a quieter machine")
    if result.interrupted:
        typer.echo("interrupted: partial results")
    typer.echo(report.VERDICTS[result.verdict])


def console() -> Console:
    """Tables go here; wide where nobody sees the edge."""
    return Console(width=None if Console().is_terminal else 140)
