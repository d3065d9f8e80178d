"""What `hybridserve loadtest` does: one run, a search, a sweep, a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hybridserve.errors import ConfigError, HybridServeError
from hybridserve.loadtest import charts, report
from hybridserve.loadtest.compare import compare
from hybridserve.loadtest.metrics import Summary, summarise
from hybridserve.loadtest.preflight import preflight
from hybridserve.loadtest.run import Bench, Result, read_run, write_result
from hybridserve.loadtest.scenario import Scenario
from hybridserve.loadtest.search import find_max
from hybridserve.loadtest.slo import EXIT_CODES, Verdict
from hybridserve.loadtest.sweep import Point, StepLaw, calibration, fit, sweep_kinds


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes, and from how many processes."""

    url: str
    key: str | None
    model: str | None
    workers: int
    metrics_port: int | None

    def bench(self, scenario: Scenario) -> Bench:
        """Ask the server first.

        Raises:
            ServiceError, ConfigError: as `preflight`.
        """
        about = preflight(self.url, self.key, self.model, scenario)
        return Bench(self.url, self.key, about, self.workers, self.metrics_port)


def run_once(target: Target, scenario: Scenario, out: Path, name: str, as_json: bool) -> int:
    """One run, its files and its table; the exit code."""
    result = _run(target.bench(scenario), scenario, out, name, as_json)
    write_result(result, out)
    note = report.write_report(result, out, f"Load test: {name}")
    if as_json:
        typer.echo(json.dumps({**result.as_dict(), "out": str(out)}, indent=2))
    else:
        _show_result(result)
        typer.echo(f"{out / 'report.html'}" + (f" ({note})" if note else ""))
    return EXIT_CODES[result.verdict]


def find_rate(target: Target, scenario: Scenario, out: Path, first: float, highest: float, as_json: bool) -> int:
    """The highest rate of an open loop that keeps the SLO."""
    scenario = scenario.model_copy(update={"mode": "open"})
    bench = target.bench(scenario)
    results: dict[float, Result] = {}

    def probe(rate: float) -> Verdict:
        one = scenario.at_level(rate)
        folder = out / f"rate-{rate:.4g}"
        results[rate] = result = _run(bench, one, folder, f"{rate:.4g} requests/s", as_json)
        write_result(result, folder)
        return result.verdict

    found = find_max(probe, first, highest)
    tree = {"max_rate": found.best, "stopped": found.stopped, "open_ended": found.open_ended}
    rows = [{"rate": rate, "verdict": verdict, **results[rate].summary.as_dict()} for rate, verdict in found.tried]
    (out / "max-rate.json").write_text(json.dumps({**tree, "tried": rows}, indent=2) + "\n")
    levels = {rate: results[rate].summary for rate in sorted(results)}
    _curve_page(out, "Search for the highest rate", {"": levels}, "requests/s")
    if as_json:
        typer.echo(json.dumps({**tree, "tried": rows, "out": str(out)}, indent=2))
    else:
        _show_levels(
            {f"{rate:.4g}/s": one for rate, one in levels.items()},
            {f"{rate:.4g}/s": verdict for rate, verdict in found.tried},
        )
        typer.echo(_found_words(found.best, found.stopped, found.open_ended, found.tried))
        for fault in results[found.tried[-1][0]].health.faults if found.stopped else ():
            typer.echo(f"client: {fault}")
    if found.stopped:
        return EXIT_CODES["void"]
    return EXIT_CODES["kept" if found.best is not None else "missed"]


def _found_words(best: float | None, stopped: bool, open_ended: bool, tried: tuple[tuple[float, Verdict], ...]) -> str:
    if stopped:
        more = f"; {best:.4g} requests/s still kept the SLO" if best is not None else ""
        return f"The search ended at {tried[-1][0]:.4g} requests/s: the client could not keep up{more}. Try --workers."
    if best is None:
        return f"No rate keeps the SLO: even {min(rate for rate, _ in tried):.4g} requests/s misses it."
    return f"The highest rate that keeps the SLO is {best:.4g} requests/s" + (
        ", and nothing higher was allowed (--highest)." if open_ended else "."
    )


def sweep(
    target: Target, scenario: Scenario, out: Path, levels: str, config: Path | None, start_up: float, as_json: bool
) -> int:
    """The operating curve: operating-curve.json, and calibration.yaml for the simulator."""
    try:
        counts = [int(one) for one in levels.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ConfigError("--levels", f"{levels!r} are no counts", "as 1,2,4,8")
    bench = target.bench(scenario)
    points, void = [], False
    for kind, alone in sweep_kinds(scenario):
        for count in counts:
            folder = out / f"{kind.name.replace('/', '-')}-{count}"
            result = _run(bench, alone.at_level(count), folder, f"{kind.name} at {count}", as_json)
            write_result(result, folder)
            void |= not result.health.valid
            points.append(Point(kind.name, kind.prompt, kind.output, count, result.summary, not result.health.valid))
    curve: dict[str, Any] = {
        "model": bench.target.model,
        "read": str(date.today()),
        "points": [one.as_dict() for one in points],
    }
    law, why = None, None
    try:
        law = fit(points)
        curve["law"] = asdict(law)
        text = _calibration(law, bench.target.model, points, config, start_up)
        (out / "calibration.yaml").write_text(text)
    except HybridServeError as error:
        why = f"no calibration.yaml: {error}"
    (out / "operating-curve.json").write_text(json.dumps(curve, indent=2) + "\n")
    names = dict.fromkeys(one.kind for one in points)
    curves = {name: {float(one.concurrency): one.summary for one in points if one.kind == name} for name in names}
    _curve_page(out, "Operating curve", curves, "concurrency")
    if as_json:
        typer.echo(json.dumps({**curve, "out": str(out), "note": why}, indent=2))
    else:
        _show_levels(
            {f"{one.kind} x{one.concurrency}": one.summary for one in points},
            {f"{one.kind} x{one.concurrency}": "void" if one.void else "" for one in points},
        )
        typer.echo(why or f"{out / 'calibration.yaml'}: hybridserve simulate --calibration reads it")
    return EXIT_CODES["void"] if void else 0


def _calibration(law: StepLaw, model: str, points: list[Point], config: Path | None, start_up: float) -> str:
    """The simulator's file; limits and cache come from the plan of the settings that the server was started with."""
    from hybridserve.planning.engine_args import plan_settings
    from hybridserve.scaling.simulator.calibration import parse_service_times
    from hybridserve.serving.capacity import replica_capacity
    from hybridserve.settings import load

    settings = load(config, ()).settings
    served = settings.model.served_name or settings.model.id
    if served != model:
        raise ConfigError("-c", f"these settings serve {served!r}, the server has {model!r}", "give the server's file")
    planned = plan_settings(settings)
    capacity = replica_capacity(settings, planned)
    engine = {
        "max_num_seqs": capacity.max_num_seqs,
        "max_num_batched_tokens": planned.advice.plan.max_num_batched_tokens,
        "align_prefill": settings.engine.enable_prefix_caching is not False,
    }
    names = ("usable_blocks", "block_size", "state_blocks", "growing_groups")
    cache = {name: getattr(capacity, name) for name in names}
    about = f"hybridserve loadtest --sweep concurrency, {date.today()}: {len(points)} points on {model}"
    text = yaml.safe_dump(calibration(law, engine, cache, start_up, about), sort_keys=False, width=110)
    parse_service_times(text, "calibration.yaml")
    return text


def compare_runs(a: Path, b: Path, out: Path, as_json: bool) -> None:
    """Two folders side by side."""
    first, second = read_run(a), read_run(b)
    for folder, (_, records, _) in ((a, first), (b, second)):
        if not records:
            raise ConfigError("--compare", f"{str(folder)!r} has no requests", "give the --out of a run")
    rows = compare(first[1], second[1])
    left, right = (a.name, b.name) if a.name != b.name else (str(a), str(b))
    sides = {left: summarise(first[1]), right: summarise(second[1])}
    note = report.write_comparison(rows, left, right, sides, out)
    tree = {"a": str(a), "b": str(b), "rows": [row.as_dict() for row in rows]}
    (out / "compare.json").write_text(json.dumps(tree, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps({**tree, "out": str(out)}, indent=2))
        return
    table = Table(title=f"{left} against {right}", title_justify="left")
    for name in ("measure", left, right, f"{left}/{right}, 95 % interval", "more than luck"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    for row in rows:
        cells = ["" if value is None else f"{value:.4g}" for value in (row.a, row.b)]
        table.add_row(f"{row.name} ({row.unit})", *cells, report.ratio_words(row), "yes" if row.differs else "")
    _console().print(table)
    typer.echo(f"{out / 'compare.html'}" + (f" ({note})" if note else ""))


def _run(bench: Bench, scenario: Scenario, out: Path, name: str, quiet: bool) -> Result:
    """One run, with a progress bar on a terminal."""
    console = Console(stderr=True, quiet=quiet or not Console(stderr=True).is_terminal)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(name, total=scenario.warm_up + scenario.curve.seconds)
        step: Callable[[float], None] = lambda second: bar.update(task, completed=second)  # noqa: E731
        return bench.run(scenario, out, step)


def _curve_page(out: Path, title: str, curves: dict[str, dict[float, Summary]], across: str) -> None:
    """report.html and charts of several levels."""
    drawings: dict[str, Any] = {}
    parts = []
    for name, levels in curves.items():
        parts.append(f"<h2>{name}</h2>" + report.parts_table({f"{level:.4g}": one for level, one in levels.items()}))
    try:
        for name, levels in curves.items():
            found = charts.level_charts(levels, across)
            drawings |= {f"{name.replace('/', '-')}-{key}".lstrip("-"): figure for key, figure in found.items()}
        if len(curves) > 1:
            drawings["throughput-by-length"] = charts.grid_chart(curves)
        charts.save(drawings, out / "charts")
    except HybridServeError as fault:
        parts.append(f"<p>{fault.what}: {fault.fix}</p>")
    (out / "report.html").write_text(report.page(title, [*parts, *map(charts.svg, drawings.values())]))


def _show_result(result: Result) -> None:
    table = Table(title="Latency, milliseconds", title_justify="left")
    for name in ("", "mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(name, justify="right" if name else "left")
    for name, words in report.MEASURES.items():
        spread = getattr(result.summary, name)
        if spread is not None:
            cells = (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99, spread.max)
            table.add_row(words, *(f"{cell * 1000:,.2f}" for cell in cells))
    _console().print(table)
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


def _show_levels(levels: dict[str, Summary], verdicts: dict[str, str]) -> None:
    table = Table()
    for name in ("", "requests", "errors", "TTFT p50 ms", "p95", "TPOT p50 ms", "p95", "tokens/s", "goodput", ""):
        table.add_column(name, justify="right" if name else "left")
    for name, one in levels.items():
        ttft, tpot = one.ttft, one.tpot
        table.add_row(
            name,
            f"{one.attempted:,}",
            f"{one.error_rate:.1%}",
            *((f"{ttft.p50 * 1000:,.1f}", f"{ttft.p95 * 1000:,.1f}") if ttft else ("", "")),
            *((f"{tpot.p50 * 1000:,.2f}", f"{tpot.p95 * 1000:,.2f}") if tpot else ("", "")),
            f"{one.output_throughput:,.1f}",
            f"{one.attainment.value:.1%}" if one.attainment else "",
            verdicts[name],
        )
    _console().print(table)


def _console() -> Console:
    return Console(width=None if Console().is_terminal else 140)
