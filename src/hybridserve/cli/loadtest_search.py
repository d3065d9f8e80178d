"""Many runs in a row: `--find max-rate` and `--sweep concurrency`. What was measured stays, however it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.table import Table

from hybridserve.cli.loadtest_modes import Target, console, run
from hybridserve.errors import ConfigError, HybridServeError, ServiceError
from hybridserve.loadtest import charts, report
from hybridserve.loadtest.metrics import Summary
from hybridserve.loadtest.rate_search import Answer, Found, find_max
from hybridserve.loadtest.request_record import Outcome
from hybridserve.loadtest.runner import Result, write_result
from hybridserve.loadtest.scenario import Scenario
from hybridserve.loadtest.slo import EXIT_CODES
from hybridserve.loadtest.sweep import (
    StepLaw,
    SweepPoint,
    calibration,
    fit,
    point_folder,
    scaling_settings,
    sweep_kinds,
)

_INTERRUPTED = 130


def find_rate(target: Target, scenario: Scenario, out: Path, first: float, highest: float, as_json: bool) -> int:
    """The highest rate of an open loop that keeps the SLO."""
    if scenario.trace is not None:
        raise ConfigError("--find", "changes the rate, and a trace has its own", "leave out the trace")
    scenario = scenario.model_copy(update={"mode": "open"})
    bench = target.bench(scenario)
    results: dict[float, Result] = {}

    def probe(rate: float) -> Answer:
        folder = out / f"rate-{rate:.4g}"
        results[rate] = result = run(bench, scenario.at_level(rate), folder, f"{rate:.4g} requests/s", as_json)
        write_result(result, folder)
        return _answer(result)

    found = find_max(probe, first, highest)
    tree = {"max_rate": found.best, "ended": found.ended}
    rows = [{"rate": rate, "verdict": answer, **results[rate].summary.as_dict()} for rate, answer in found.tried]
    (out / "max-rate.json").write_text(json.dumps({**tree, "tried": rows}, indent=2) + "\n")
    levels = {rate: results[rate].summary for rate in sorted(results)}
    verdicts = {f"{rate:.4g}": answer for rate, answer in found.tried}
    _page(out, "Search for the highest rate", [_found_words(found)], {"": levels}, "requests/s", {"": verdicts})
    if as_json and found.ended != "gone":
        typer.echo(json.dumps({**tree, "tried": rows, "out": str(out)}, indent=2))
    elif not as_json:
        _show_levels({f"{rate:.4g}": one for rate, one in levels.items()}, verdicts)
        typer.echo(_found_words(found))
        for fault in results[found.tried[-1][0]].health.faults if found.ended == "void" else ():
            typer.echo(f"client: {fault}")
    return _exit_code(found.ended, target.url, out, 0 if found.best is not None else EXIT_CODES["missed"])


def _answer(result: Result) -> Answer:
    if result.interrupted:
        return "interrupted"
    gone = set(result.summary.outcomes) == {Outcome.CONNECT}
    return "gone" if gone else result.verdict


def _exit_code(ended: str, url: str, out: Path, otherwise: int) -> int:
    """Of a series of runs.

    Raises:
        ServiceError: the server went away.
    """
    if ended == "gone":
        raise ServiceError(url, "no longer answers", f"start it again; what was measured before is in {out}")
    return {"void": EXIT_CODES["void"], "interrupted": _INTERRUPTED}.get(ended, otherwise)


def _found_words(found: Found) -> str:
    last = found.tried[-1][0]
    so_far = f"{found.best:.4g} requests/s kept it" if found.best is not None else "no rate was seen to keep it"
    if found.ended == "void":
        return f"The search ended at {last:.4g} requests/s: the client could not keep up; {so_far}. Try --workers."
    if found.ended == "gone":
        return f"The search ended at {last:.4g} requests/s: the server no longer answers; {so_far}."
    if found.ended == "interrupted":
        return f"Interrupted at {last:.4g} requests/s; {so_far}."
    if found.best is None:
        return f"No rate keeps the SLO: even {min(rate for rate, _ in found.tried):.4g} requests/s misses it."
    more = ", and nothing higher was allowed (--highest)" if found.ended == "open" else ""
    return f"The highest rate that keeps the SLO is {found.best:.4g} requests/s{more}."


def sweep(
    target: Target, scenario: Scenario, out: Path, levels: str, config: Path | None, start_up: float, as_json: bool
) -> int:
    """The operating curve: operating-curve.json for the planner, calibration.yaml for the simulator, scaling.yaml."""
    counts = _counts(levels)
    kinds = sweep_kinds(scenario)
    bench = target.bench(scenario)
    points: list[SweepPoint] = []
    ended = "found"
    for kind, alone in kinds:
        for count in counts:
            folder = out / point_folder(kind.name, count)
            result = run(bench, alone.at_level(count), folder, f"{kind.name} at {count}", as_json)
            write_result(result, folder)
            answer = _answer(result)
            if answer in ("interrupted", "gone"):
                ended = answer
                break
            points.append(SweepPoint(kind.name, kind.prompt, kind.output, count, result.summary, answer == "void"))
        if ended != "found":
            break
    curve: dict[str, Any] = {
        "model": bench.target.model,
        "read": str(date.today()),
        "complete": ended == "found",
        "points": [one.as_dict() for one in points],
    }
    why = None if ended == "found" else f"no calibration.yaml: the sweep did not come to its end ({ended})"
    if ended == "found":
        try:
            law = fit(points)
            curve["law"] = asdict(law)
            (out / "calibration.yaml").write_text(_calibration(law, bench.target.model, points, config, start_up))
            (out / "scaling.yaml").write_text(yaml.safe_dump(scaling_settings(law, start_up), sort_keys=False))
        except HybridServeError as error:
            why = f"no calibration.yaml: {error}"
    (out / "operating-curve.json").write_text(json.dumps(curve, indent=2) + "\n")
    curves: dict[str, dict[float, Summary]] = {}
    verdicts: dict[str, dict[str, str]] = {}
    for one in points:
        curves.setdefault(one.kind, {})[float(one.concurrency)] = one.summary
        verdicts.setdefault(one.kind, {})[str(one.concurrency)] = "void" if one.void else ""
    notes = [
        f"Model {bench.target.model} at {target.url}, {date.today()}.",
        why or "The law of one engine step was fitted.",
    ]
    _page(out, "Operating curve", notes, curves, "concurrency", verdicts)
    if as_json and ended != "gone":
        typer.echo(json.dumps({**curve, "out": str(out), "note": why}, indent=2))
    elif not as_json:
        _show_levels(
            {f"{one.kind} x{one.concurrency}": one.summary for one in points},
            {f"{one.kind} x{one.concurrency}": "void" if one.void else "" for one in points},
        )
        typer.echo(f"{out / 'operating-curve.json'}: hybridserve plan --measured reads it")
        typer.echo(why or f"{out / 'calibration.yaml'}: hybridserve simulate --calibration reads it")
        if why is None:
            typer.echo(f"{out / 'scaling.yaml'}: for the settings of the service, section scaling")
    void = any(one.void for one in points)
    return _exit_code(ended, target.url, out, EXIT_CODES["void"] if void else 0)


def _counts(levels: str) -> list[int]:
    try:
        counts = [int(one) for one in levels.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ConfigError("--levels", f"{levels!r} are no counts", "as 1,2,4,8")
    return list(dict.fromkeys(counts))


def _calibration(law: StepLaw, model: str, points: list[SweepPoint], config: Path | None, start_up: float) -> str:
    """The simulator's file; limits and cache come from the plan of the settings that the server was started with."""
    from hybridserve.engine.spec import replica_capacity
    from hybridserve.planning.resolve import plan_settings
    from hybridserve.settings import load
    from hybridserve.simulator.service_times import parse_service_times

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


def _page(
    out: Path,
    title: str,
    notes: list[str],
    curves: Mapping[str, Mapping[float, Summary]],
    across: str,
    verdicts: Mapping[str, Mapping[str, str]],
) -> None:
    """report.html and charts of several levels, for each kind of request."""
    drawings: dict[str, Any] = {}
    parts = [report.note(one) for one in notes]
    try:
        if len(curves) > 1:
            drawings["throughput-by-length"] = charts.grid_chart(curves)
        for name, levels in curves.items():
            found = charts.level_charts(levels, across, name)
            if len(curves) > 1:
                # One chart has the throughput of all.
                del found["throughput-over-load"]
            drawings |= {f"{name.replace('/', '-')}-{key}".lstrip("-"): figure for key, figure in found.items()}
        charts.save(drawings, out / "charts")
    except HybridServeError as fault:
        parts.append(report.note(f"{fault.what}: {fault.fix}"))
    parts.append(report.gallery(drawings))
    for name, levels in curves.items():
        parts.append(report.heading(name) if name else "")
        parts.append(report.parts_table({f"{level:.4g}": one for level, one in levels.items()}, across, verdicts[name]))
    (out / "report.html").write_text(report.page(title, parts))


def _show_levels(levels: Mapping[str, Summary], verdicts: Mapping[str, str]) -> None:
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
    console().print(table)
