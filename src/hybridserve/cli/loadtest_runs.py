"""The modes of `hybridserve loadtest`: run, report, rate search, sweep, comparison. Each returns the exit code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.progress import Progress

from hybridserve.errors import ConfigError, HybridServeError, ServiceError
from hybridserve.loadtest import charts, report
from hybridserve.loadtest.compare import Row, compare
from hybridserve.loadtest.metrics import Summary
from hybridserve.loadtest.request_record import Outcome
from hybridserve.loadtest.runner import Result, Runner, judge_run, write_result
from hybridserve.loadtest.scenario import Scenario
from hybridserve.loadtest.statistics import Interval
from hybridserve.loadtest.sweep import (
    RateSearch,
    RateStatus,
    StepTimes,
    SweepPoint,
    calibration,
    find_max,
    fit,
    point_folder,
    scaling_settings,
    sweep_kinds,
)
from hybridserve.loadtest.tables import (
    Table,
    comparison_table,
    counts_table,
    first_details,
    latency_table,
    limits_text,
    parts_table,
    ratio_text,
    slo_table,
)
from hybridserve.loadtest.verdict import EXIT_CODES, verdict_text

_INTERRUPTED = 130
_CURVE = "operating-curve.json"
_SWEPT = ("output throughput", "ttft p50", "tpot p50")


Connect = Callable[[Scenario], Runner]
"""Checks the server for a scenario, and returns the runner."""


def run_once(connect: Connect, scenario: Scenario, out: Path, name: str, as_json: bool) -> int:
    """One run."""
    return _conclude(_run(connect(scenario), scenario, out, name, as_json), out, name, as_json)


def report_run(out: Path, as_json: bool) -> int:
    """Judge the records of a folder again: of plain locust, of a killed run, collected from several machines."""
    return _conclude(_judged(out, "--report"), out, out.resolve().name, as_json)


def _run(runner: Runner, scenario: Scenario, out: Path, name: str, quiet: bool) -> Result:
    """One run and its files, with a progress bar on a terminal."""
    console = Console(stderr=True, quiet=quiet or not Console(stderr=True).is_terminal)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(name, total=scenario.warm_up + scenario.curve.seconds)
        step: Callable[[float], None] = lambda second: bar.update(task, completed=second)  # noqa: E731
        result = runner.run(scenario, out, step)
    write_result(result, out)
    return result


def _judged(folder: Path, flag: str) -> Result:
    result = judge_run(folder)
    if not result.records:
        raise ConfigError(flag, f"{str(folder)!r} has no requests", "use the --out of a run")
    return result


def _conclude(result: Result, out: Path, name: str, as_json: bool) -> int:
    """Files, tables, exit code."""
    write_result(result, out)
    note = report.write_report(result, out, f"Load test: {name}")
    if as_json:
        typer.echo(json.dumps({**result.as_dict(), "out": str(out)}, indent=2))
    else:
        for table in (latency_table(result.summary), counts_table(result), slo_table(result)):
            table.show()
        typer.echo(limits_text(result))
        for line in first_details(result):
            typer.echo(line)
        for fault in result.health.faults:
            typer.echo(f"client: {fault}; use more --workers, or a machine with less load")
        if result.interrupted:
            typer.echo("interrupted: partial results")
        typer.echo(verdict_text(result.verdict, result.checks))
        typer.echo(f"{out / 'report.html'}" + (f" ({note})" if note else ""))
    return EXIT_CODES[result.verdict]


def find_rate(connect: Connect, scenario: Scenario, out: Path, first: float, highest: float, as_json: bool) -> int:
    """The highest rate of an open loop that keeps the SLO."""
    if scenario.trace is not None:
        raise ConfigError("--find", "cannot change the rate of a trace", "omit the trace")
    scenario = scenario.model_copy(update={"mode": "open"})
    runner = connect(scenario)
    results: dict[float, Result] = {}

    def probe(rate: float) -> RateStatus:
        name = f"{rate:.4g}"
        results[rate] = _run(runner, scenario.at_level(rate), out / f"rate-{name}", f"{name} requests/s", as_json)
        return _status(results[rate])

    search = find_max(probe, first, highest)
    tree = {"max_rate": search.best, "ended": search.ended}
    tried = [{"rate": rate, "verdict": status, **results[rate].summary.as_dict()} for rate, status in search.tried]
    _write_json(out / "max-rate.json", {**tree, "tried": tried})
    levels = {rate: results[rate].summary for rate in sorted(results)}
    remarks = {f"{rate:.4g}": status for rate, status in search.tried}
    title, text = "Search for the highest rate", _search_text(search)
    report.write_levels(out, title, [text], {"": levels}, "requests/s", {"": remarks})
    if as_json and search.ended != "gone":
        typer.echo(json.dumps({**tree, "tried": tried, "out": str(out)}, indent=2))
    elif not as_json:
        parts_table({f"{rate:.4g}": summary for rate, summary in levels.items()}, "requests/s", remarks).show()
        typer.echo(text)
        for fault in results[search.tried[-1][0]].health.faults if search.ended == "void" else ():
            typer.echo(f"client: {fault}")
    return _series_exit_code(search.ended, runner.url, out, 0 if search.best is not None else EXIT_CODES["missed"])


def _status(result: Result) -> RateStatus:
    if result.interrupted:
        return "interrupted"
    return "gone" if set(result.summary.outcomes) == {Outcome.CONNECT} else result.verdict


def _series_exit_code(ended: str, url: str, out: Path, otherwise: int) -> int:
    """Exit code of a series of runs.

    Raises:
        ServiceError: the server no longer answers.
    """
    if ended == "gone":
        raise ServiceError(url, "no longer answers", f"start it again; the results so far are in {out}")
    return {"void": EXIT_CODES["void"], "interrupted": _INTERRUPTED}.get(ended, otherwise)


def _search_text(search: RateSearch) -> str:
    last = search.tried[-1][0]
    best = f"{search.best:.4g} requests/s kept the SLO" if search.best is not None else "no rate kept the SLO"
    if search.ended == "void":
        return f"The search ended at {last:.4g} requests/s because the client was too slow; {best}. Use more --workers."
    if search.ended == "gone":
        return f"The search ended at {last:.4g} requests/s because the server no longer answers; {best}."
    if search.ended == "interrupted":
        return f"Interrupted at {last:.4g} requests/s; {best}."
    if search.best is None:
        return f"No rate keeps the SLO: even {min(rate for rate, _ in search.tried):.4g} requests/s misses it."
    limit = " (the limit of --highest)" if search.ended == "open" else ""
    return f"The highest rate that keeps the SLO is {search.best:.4g} requests/s{limit}."


def sweep(
    connect: Connect, scenario: Scenario, out: Path, levels: str, config: Path | None, start_up: float, as_json: bool
) -> int:
    """The operating curve: operating-curve.json, calibration.yaml for the simulator, scaling.yaml for the settings."""
    counts = _counts(levels)
    plan = [(kind, alone, count) for kind, alone in sweep_kinds(scenario) for count in counts]
    runner = connect(scenario)
    model = runner.target.model
    points: list[SweepPoint] = []
    ended = "found"
    for kind, alone, count in plan:
        folder = out / point_folder(kind.name, count)
        result = _run(runner, alone.at_level(count), folder, f"{kind.name} at {count}", as_json)
        status = _status(result)
        if status in ("interrupted", "gone"):
            ended = status
            break
        points.append(SweepPoint(kind.name, kind.prompt, kind.output, count, result.summary, status == "void"))
    curve: dict[str, Any] = {
        "model": model,
        "read": str(date.today()),
        "complete": ended == "found",
        "points": [point.as_dict() for point in points],
    }
    problem = None if ended == "found" else f"no calibration.yaml: the sweep is incomplete ({ended})"
    if problem is None:
        try:
            times = fit(points)
            curve["step_times"] = asdict(times)
            (out / "calibration.yaml").write_text(_calibration(times, model, points, config, start_up))
            (out / "scaling.yaml").write_text(yaml.safe_dump(scaling_settings(times, start_up), sort_keys=False))
        except HybridServeError as error:
            problem = f"no calibration.yaml: {error}"
    _write_json(out / _CURVE, curve)
    curves: dict[str, dict[float, Summary]] = {}
    remarks: dict[str, dict[str, str]] = {}
    for point in points:
        curves.setdefault(point.kind, {})[float(point.concurrency)] = point.summary
        remarks.setdefault(point.kind, {})[f"{point.concurrency:.4g}"] = "void" if point.void else ""
    notes = [f"Model {model} at {runner.url}, {date.today()}.", problem or "The times of an engine step were fitted."]
    report.write_levels(out, "Operating curve", notes, curves, "concurrency", remarks)
    if as_json and ended != "gone":
        typer.echo(json.dumps({**curve, "out": str(out), "note": problem}, indent=2))
    elif not as_json:
        named = {f"{point.kind} x{point.concurrency}": point for point in points}
        parts_table(
            {name: point.summary for name, point in named.items()},
            "kind, concurrency",
            {name: "void" if point.void else "" for name, point in named.items()},
        ).show()
        typer.echo(f"{out / _CURVE}: for hybridserve plan --measured")
        typer.echo(problem or f"{out / 'calibration.yaml'}: for hybridserve simulate --calibration")
        if problem is None:
            typer.echo(f"{out / 'scaling.yaml'}: section scaling of the service's settings")
    void = any(point.void for point in points)
    return _series_exit_code(ended, runner.url, out, EXIT_CODES["void"] if void else 0)


def _counts(levels: str) -> list[int]:
    try:
        counts = [int(level) for level in levels.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ConfigError("--levels", f"{levels!r} is not a list of counts", "for example 1,2,4,8")
    return list(dict.fromkeys(counts))


def _calibration(times: StepTimes, model: str, points: list[SweepPoint], config: Path | None, start_up: float) -> str:
    """The simulator's calibration file. Limits and cache come from the plan of the server's settings."""
    from hybridserve.deployment.resolve import resolve_deployment
    from hybridserve.settings import load
    from hybridserve.simulator.service_times import parse_service_times

    settings = load(config, ()).settings
    served = settings.model.served_name or settings.model.id
    if served != model:
        raise ConfigError(
            "-c", f"these settings serve {served!r}, the server serves {model!r}", "use the server's settings"
        )
    spec = resolve_deployment(settings)
    capacity = spec.capacity
    engine = {
        "max_num_seqs": capacity.max_num_seqs,
        "max_num_batched_tokens": spec.engine_args["max_num_batched_tokens"],
        "align_prefill": settings.engine.enable_prefix_caching is not False,
    }
    names = ("usable_blocks", "block_size", "state_blocks", "growing_groups")
    cache = {name: getattr(capacity, name) for name in names}
    about = f"hybridserve loadtest --sweep concurrency, {date.today()}: {len(points)} points on {model}"
    text = yaml.safe_dump(calibration(times, engine, cache, start_up, about), sort_keys=False, width=110)
    parse_service_times(text, "calibration.yaml")
    return text


def compare_folders(a: Path, b: Path, out: Path, as_json: bool) -> int:
    """Compare two runs, or two sweeps."""
    names = (a.name, b.name) if a.name != b.name else (str(a), str(b))
    if names[0] == names[1]:
        raise ConfigError("--compare", f"{names[0]!r} is compared with itself", "use two folders")
    swept = [(side / _CURVE).exists() for side in (a, b)]
    if any(swept) and not all(swept):
        raise ConfigError("--compare", "one folder is of a sweep, the other of a run", "use two runs or two sweeps")
    out.mkdir(parents=True, exist_ok=True)
    return (_compare_sweeps if all(swept) else _compare_runs)(a, b, names, out, as_json)


def _compare_runs(a: Path, b: Path, names: tuple[str, str], out: Path, as_json: bool) -> int:
    sides = {name: _judged(folder, "--compare") for name, folder in zip(names, (a, b), strict=True)}
    rows = compare(sides[names[0]].records, sides[names[1]].records)
    notes = [f"{name} is void: {side.health.faults[0]}" for name, side in sides.items() if side.verdict == "void"]
    first, second = (side.scenario.model_dump(exclude={"about", "slo", "client"}) for side in sides.values())
    if different := [name for name in first if first[name] != second[name]]:
        notes.append(f"the scenarios of the runs differ: {', '.join(different)}")
    problem = report.write_comparison(rows, sides, notes, out)
    tree = {"a": str(a), "b": str(b), "notes": notes, "rows": [row.as_dict() for row in rows]}
    return _show_comparison(tree, comparison_table(rows, names), sides, out, problem, as_json)


def _compare_sweeps(a: Path, b: Path, names: tuple[str, str], out: Path, as_json: bool) -> int:
    """The ratios at each point that both curves have."""
    points = [_points(folder) for folder in (a, b)]
    shared = [key for key in points[0] if key in points[1]]
    if not shared:
        raise ConfigError(
            "--compare", "the two sweeps have no common point", "use the same scenario, --scale and --levels"
        )
    found: dict[tuple[str, int], list[Row]] = {}
    sides: dict[str, Result] = {}
    ratios: dict[str, dict[str, dict[float, Interval]]] = {}
    for kind, count in shared:
        pair = [_judged(folder / points[at][kind, count], "--compare") for at, folder in enumerate((a, b))]
        sides |= {f"{name} {kind} x{count}": side for name, side in zip(names, pair, strict=True)}
        rows = {row.name: row for row in compare(pair[0].records, pair[1].records)}
        found[kind, count] = [rows[name] for name in _SWEPT]
        for row in found[kind, count]:
            if row.quotient is not None:
                ratio = row.ratio or Interval(row.quotient, math.nan, math.nan)
                ratios.setdefault(row.name, {}).setdefault(kind, {})[float(count)] = ratio
    notes = [f"{name} is void: the client was the bottleneck" for name, side in sides.items() if side.verdict == "void"]
    head = ["prompt/output, concurrency", *(f"{name}, {names[0]} / {names[1]}" for name in _SWEPT)]
    cells = [[f"{kind} x{count}", *map(ratio_text, rows)] for (kind, count), rows in found.items()]
    table = Table(head, cells)
    blocks: list[report.Block] = [*map(report.paragraph, notes), table, lambda: charts.ratio_charts(ratios, names)]
    problem = report.write_page(out / "compare.html", f"{names[0]} and {names[1]}", blocks)
    listed = [
        {"kind": kind, "concurrency": count, "rows": [row.as_dict() for row in rows]}
        for (kind, count), rows in found.items()
    ]
    tree = {"a": str(a), "b": str(b), "notes": notes, "points": listed}
    return _show_comparison(tree, table, sides, out, problem, as_json)


def _show_comparison(
    tree: dict[str, Any], table: Table, sides: Mapping[str, Result], out: Path, problem: str | None, as_json: bool
) -> int:
    _write_json(out / "compare.json", tree)
    if as_json:
        typer.echo(json.dumps({**tree, "out": str(out)}, indent=2))
    else:
        table.show()
        for note in tree["notes"]:
            typer.echo(note)
        typer.echo(f"{out / 'compare.html'}" + (f" ({problem})" if problem else ""))
    return EXIT_CODES["void"] if any(side.verdict == "void" for side in sides.values()) else 0


def _points(folder: Path) -> dict[tuple[str, int], str]:
    """Lengths and concurrency of each point of a sweep, with the folder of its records.

    A point is identified by its lengths, since the same scenario at another --scale has other lengths.
    """
    try:
        rows = json.loads((folder / _CURVE).read_text())["points"]
        return {(f"{row['prompt_tokens']}/{row['output_tokens']}", row["concurrency"]): row["folder"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(str(folder / _CURVE), f"cannot be read ({error})", "use the --out of a sweep") from None


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n")
