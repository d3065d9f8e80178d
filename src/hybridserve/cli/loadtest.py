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

app = typer.Typer(rich_markup_mode=None)


@app.command()
def loadtest(
    scenario: Annotated[str | None, typer.Argument(help="Name or file; --list shows the names.")] = None,
    url: Annotated[str, typer.Option(help="The server, with or without /v1.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="Served name; else the first of /v1/models.")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="LOADTEST_API_KEY", show_envvar=True, help="Other users see options.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="A new folder for records and report.")] = None,
    level: Annotated[float | None, typer.Option(help="Constant load: users, or requests/s in an open loop.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Duration after the warm-up.")] = None,
    requests: Annotated[int | None, typer.Option(help="Stop after so many.")] = None,
    scale: Annotated[float, typer.Option(help="Multiplies all token counts of the scenario.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Of prompts and arrivals.")] = None,
    trace: Annotated[Path | None, typer.Option(metavar="CSV", help="Replay requests: time, prompt, output.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that send, one core each.")] = 1,
    metrics_port: Annotated[int | None, typer.Option(help="Serve client-side metrics to Prometheus here.")] = None,
    find: Annotated[str | None, typer.Option(metavar="max-rate", help="Search the highest rate.")] = None,
    highest: Annotated[float, typer.Option(help="Upper end of --find, in requests/s.")] = 1000.0,
    sweep: Annotated[str | None, typer.Option(metavar="concurrency", help="Measure the operating curve.")] = None,
    levels: Annotated[str, typer.Option(help="Concurrency of --sweep.")] = "1,2,4,8,16",
    config: ConfigFile = None,
    start_up: Annotated[float, typer.Option(help="Seconds a replica takes to start, for --sweep's file.")] = 60.0,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Two folders of earlier runs, side by side.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Judge the records of a folder again.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the scenarios.")] = False,
    as_json: AsJson = False,
) -> None:
    """Load a server, judge it by the SLO, and write a report.

    Exit code 0: the SLO is kept. 1: missed. 2: bad input, or no server. 3: void, the client was the bottleneck.
    130: a search or a sweep was interrupted.

    Examples:
      hybridserve loadtest chat --url http://127.0.0.1:8000
      hybridserve loadtest grid --scale 0.02 --sweep concurrency --levels 1,4,16
      hybridserve loadtest chat --find max-rate --seconds 30
      hybridserve loadtest --compare before after
    """
    from hybridserve.cli import loadtest_modes as modes
    from hybridserve.cli import loadtest_search as searches
    from hybridserve.loadtest.scenario import BUILT_IN, built_in, load_scenario

    if listing:
        found = {name: load_scenario(name) for name in built_in()}
        if as_json:
            typer.echo(json.dumps({name: one.model_dump(mode="json") for name, one in found.items()}, indent=2))
            return
        width = max(map(len, found))
        for name, one in found.items():
            typer.echo(f"{name:<{width}}  {one.mode:<6}  {one.about}")
        typer.echo(f"\nThe files are in {BUILT_IN}.")
        return
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    if compare is not None:
        from hybridserve.cli.loadtest_compare import compare_folders

        raise typer.Exit(compare_folders(*compare, out or Path(f"loadtest-compare-{stamp}"), as_json))
    if judge is not None:
        raise typer.Exit(modes.report_run(judge, as_json))
    if scenario is None:
        raise ConfigError("SCENARIO", "is missing", f"one of {', '.join(built_in())}, or a file")
    if find not in (None, "max-rate"):
        raise ConfigError("--find", f"{find!r} is not one", "max-rate")
    if sweep not in (None, "concurrency"):
        raise ConfigError("--sweep", f"{sweep!r} is not one", "concurrency")
    chosen = _adjusted(load_scenario(scenario), level, seconds, requests, scale, seed, trace)
    name = Path(scenario).stem
    target = modes.Target(url, key, model, workers, metrics_port)
    folder = out or Path(f"loadtest-{name}-{stamp}")
    if find is not None:
        raise typer.Exit(searches.find_rate(target, chosen, folder, level or 1.0, highest, as_json))
    if sweep is not None:
        raise typer.Exit(searches.sweep(target, chosen, folder, levels, config, start_up, as_json))
    raise typer.Exit(modes.run_once(target, chosen, folder, name, as_json))


def _adjusted(
    scenario: Scenario,
    level: float | None,
    seconds: float | None,
    requests: int | None,
    scale: float,
    seed: int | None,
    trace: Path | None,
) -> Scenario:
    """The scenario with the options of the command line, checked again."""
    from hybridserve.loadtest.scenario import validate_scenario

    for flag, value in (("--level", level), ("--seconds", seconds), ("--requests", requests), ("--scale", scale)):
        if value is not None and not value > 0:
            raise ConfigError(flag, f"{value:g} is not positive", "give a number above 0")
    tree = scenario.scaled(scale).model_dump(mode="json")
    curve = tree["curve"]
    if level is not None:
        tree["curve"] = {"shape": "constant", "level": level, "seconds": seconds or scenario.curve.seconds}
    elif seconds is not None and curve["shape"] == "steps":
        curve["each"] = seconds / len(curve["levels"])
    elif seconds is not None:
        curve["seconds"] = seconds
    if trace is not None:
        tree |= {"trace": str(trace), "mode": "open"}
    tree |= {name: value for name, value in (("requests", requests), ("seed", seed)) if value is not None}
    return validate_scenario(tree, "SCENARIO")
