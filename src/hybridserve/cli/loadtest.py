"""`hybridserve loadtest`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridserve.cli.options import AsJson, ConfigFile
from hybridserve.errors import ConfigError

if TYPE_CHECKING:
    from hybridserve.loadtest.scenario import Scenario

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def loadtest(
    scenario: Annotated[str | None, typer.Argument(help="Name or file; --list shows the names.")] = None,
    url: Annotated[str, typer.Option(help="URL of the server, with or without /v1.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="Served name. Default: the first of /v1/models.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="LOADTEST_API_KEY",
            show_envvar=True,
            help="API key; prefer the variable, since options are visible to other users.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="New folder for records and report.")] = None,
    level: Annotated[float | None, typer.Option(help="Constant load: users, or requests/s in an open loop.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Duration after the warm-up.")] = None,
    requests: Annotated[int | None, typer.Option(help="Stop after this number of requests.")] = None,
    scale: Annotated[float, typer.Option(help="Factor for all token counts of the scenario.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed of prompts and arrivals.")] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Replay a trace with the columns time, prompt and output.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Sending processes, each on one core.")] = 1,
    metrics_port: Annotated[int | None, typer.Option(help="Port for client-side Prometheus metrics.")] = None,
    replica_metrics: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Metrics port of a replica, for the tokens that it reused. Repeatable."),
    ] = None,
    find: Annotated[
        str | None, typer.Option(metavar="max-rate", help="Search for the highest rate that keeps the SLO.")
    ] = None,
    highest: Annotated[float, typer.Option(help="Highest rate of --find, in requests/s.")] = 1000.0,
    sweep: Annotated[str | None, typer.Option(metavar="concurrency", help="Measure the operating curve.")] = None,
    levels: Annotated[str, typer.Option(help="Concurrencies of --sweep.")] = "1,2,4,8,16",
    config: ConfigFile = None,
    start_up: Annotated[
        float, typer.Option(help="Start-up time of a replica in seconds, for the files of --sweep.")
    ] = 60.0,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Compare the folders of two runs or two sweeps.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Judge the records of a folder again.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the scenarios.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put load on a server, check its SLO, and write a report.

    Exit codes: 0, the SLO is kept; 1, missed; 2, invalid input or no server; 3, void (the client was the bottleneck);
    130, a search or a sweep was interrupted.

    \b
    Examples:
      hybridserve loadtest chat --url http://127.0.0.1:8000
      hybridserve loadtest grid --scale 0.02 --sweep concurrency --levels 1,4,16
      hybridserve loadtest chat --find max-rate --seconds 30
      hybridserve loadtest --compare before after
    """
    from hybridserve.cli import loadtest_runs as runs
    from hybridserve.loadtest.runner import Runner
    from hybridserve.loadtest.scenario import BUILT_IN, built_in, load_scenario

    if listing:
        found = {name: load_scenario(name) for name in built_in()}
        if as_json:
            typer.echo(json.dumps({name: entry.model_dump(mode="json") for name, entry in found.items()}, indent=2))
            return
        width = max(map(len, found))
        for name, entry in found.items():
            typer.echo(f"{name:<{width}}  {entry.mode:<6}  {entry.about}")
        typer.echo(f"\nThe files are in {BUILT_IN}.")
        return
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    if compare is not None:
        raise typer.Exit(runs.compare_folders(*compare, out or Path(f"loadtest-compare-{stamp}"), as_json))
    if judge is not None:
        raise typer.Exit(runs.report_run(judge, as_json))
    if scenario is None:
        raise ConfigError("SCENARIO", "is missing", f"use a file, or one of {', '.join(built_in())}")
    if find not in (None, "max-rate"):
        raise ConfigError("--find", f"{find!r} is not a search", "use max-rate")
    if sweep not in (None, "concurrency"):
        raise ConfigError("--sweep", f"{sweep!r} is not a sweep", "use concurrency")
    chosen = _with_options(load_scenario(scenario), level, seconds, requests, scale, seed, trace)
    name = Path(scenario).stem

    def connect(scenario: Scenario) -> Runner:
        return Runner.connect(url, key, model, scenario, workers, metrics_port, tuple(replica_metrics or ()))

    folder = out or Path(f"loadtest-{name}-{stamp}")
    if find is not None:
        raise typer.Exit(runs.find_rate(connect, chosen, folder, level or 1.0, highest, as_json))
    if sweep is not None:
        raise typer.Exit(runs.sweep(connect, chosen, folder, levels, config, start_up, as_json))
    raise typer.Exit(runs.run_once(connect, chosen, folder, name, as_json))


def _with_options(
    scenario: Scenario,
    level: float | None,
    seconds: float | None,
    requests: int | None,
    scale: float,
    seed: int | None,
    trace: Path | None,
) -> Scenario:
    """The scenario with the options of the command line."""
    from hybridserve.loadtest.scenario import validate_scenario

    for flag, value in (("--level", level), ("--seconds", seconds), ("--requests", requests), ("--scale", scale)):
        if value is not None and not value > 0:
            raise ConfigError(flag, f"{value:g} is not positive", "use a number above 0")
    if seconds is not None:
        scenario = scenario.lasting(seconds)
    tree = scenario.scaled(scale).model_dump(mode="json")
    if level is not None:
        tree["curve"] = {"shape": "constant", "level": level, "seconds": scenario.curve.seconds}
    if trace is not None:
        tree |= {"trace": str(trace), "mode": "open"}
    tree |= {name: value for name, value in (("requests", requests), ("seed", seed)) if value is not None}
    return validate_scenario(tree, "SCENARIO")
