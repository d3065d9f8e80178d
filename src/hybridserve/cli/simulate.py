"""`hybridserve simulate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridserve.cli.options import AsJson, Assignments, ConfigFile, OutputTokens, PromptTokens
from hybridserve.errors import ConfigError
from hybridserve.units import counted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from hybridserve.simulator.tune import PolicyConfig, Scenario, TuningResult

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def simulate(
    config: ConfigFile = None,
    assign: Assignments = None,
    workload: Annotated[
        str | None, typer.Option(help="Name of a traffic pattern; --list shows them. Default: diurnal.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Mean requests per second. N users with a request each T seconds are a rate of N/T."),
    ] = None,
    prompt: PromptTokens = None,
    output: OutputTokens = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="CSV", help="A CSV time,prompt,output, a public trace, or the gateway's log.")
    ] = None,
    policy: Annotated[str, typer.Option(help="Policies separated by commas, or all.")] = "hybrid,oracle",
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Service times: a name or a file. Default: bounds of the engine in -c, or nano-9b-a10g.",
        ),
    ] = None,
    tuned: Annotated[
        bool, typer.Option("--tune", help="Show only the cheapest settings that reach --attainment, or else the best.")
    ] = False,
    attainment: Annotated[
        float | None, typer.Option(help="Required share of requests that meet the goals. Default: that of -c, or 0.99.")
    ] = None,
    ttft: Annotated[
        float | None, typer.Option(help="Goal: seconds to the first token, for an empty prompt. Default: -c, or 2.")
    ] = None,
    ttft_per_1000: Annotated[
        float | None, typer.Option(help="Goal: additional seconds for each 1000 prompt tokens. Default: -c, or 1.")
    ] = None,
    inter_token: Annotated[
        float | None, typer.Option(help="Goal: mean seconds between tokens. Default: -c, or 0.1.")
    ] = None,
    minimum: Annotated[int | None, typer.Option("--min", help="Minimum number of replicas. Default: -c, or 1.")] = None,
    maximum: Annotated[
        int | None, typer.Option("--max", help="Maximum number of replicas. Default: -c, or 100.")
    ] = None,
    initial: Annotated[
        int | None, typer.Option(help="Ready replicas at the start. Default: the minimum of -c, or 4.")
    ] = None,
    start_up: Annotated[
        float | None, typer.Option(help="Start-up time of a replica in seconds. Default: -c, or the calibration's.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Factor for the rate of a traffic pattern.")] = None,
    warm_up: Annotated[float, typer.Option(help="Seconds at the start that do not count.")] = 0.0,
    max_ongoing: Annotated[
        int | None, typer.Option(help="Limit of requests on a replica, beyond which the router queues.")
    ] = None,
    refuse_late: Annotated[
        bool, typer.Option("--refuse-late", help="Refuse requests that would be late (scaling.refuse_late).")
    ] = False,
    price: Annotated[
        float | None, typer.Option(help="Price of a replica-hour, in any currency: adds costs to the table.")
    ] = None,
    standby: Annotated[int, typer.Option(help="Warm replicas without traffic, which take over at once.")] = 0,
    standby_start_up: Annotated[float, typer.Option(help="Seconds until a standby replica takes requests.")] = 5.0,
    standby_price: Annotated[
        float, typer.Option(help="Price of a standby replica, as a share of --price: 1 where it keeps its GPU.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of arrivals and router.")] = 1,
    chart: Annotated[Path | None, typer.Option(metavar="PNG", help="Write a chart of replicas over time.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List traffic patterns, policies and calibrations.")] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate traffic to compare autoscaling policies.

    With -c the engine is the planned one, and bounds, goals and start-up time are those of section scaling. A policy
    with settings is simulated with every point of a grid.

    \b
    Examples:
      hybridserve simulate -c hybridserve.yaml --rate 4 --prompt 1024/4096 --output 256/1024
      hybridserve simulate --workload bursts --policy hybrid,fixed,oracle --tune
      hybridserve simulate --trace monday.csv --policy all --tune --json
    """
    from hybridserve.autoscaling.spec import ScalingSpec
    from hybridserve.cli.simulate_inputs import scaling_settings, service_times, traffic
    from hybridserve.simulator.fleet import FleetOptions
    from hybridserve.simulator.service_times import built_in
    from hybridserve.simulator.traffic import TRAFFIC_PATTERNS
    from hybridserve.simulator.tune import ABOUT, POLICIES, Scenario, best, candidates, cheapest

    if listing:
        _list({name: pattern.about for name, pattern in TRAFFIC_PATTERNS.items()}, ABOUT, built_in(), as_json)
        return
    names = list(POLICIES) if policy == "all" else policy.split(",")
    for flag, value in (("--price", price or 0.0), ("--standby-price", standby_price), ("--standby", standby),
                        ("--standby-start-up", standby_start_up)):  # fmt: skip
        if not 0 <= value < float("inf"):
            raise ConfigError(flag, f"{value:g} is negative or not finite", "use 0 or more")
    if max_ongoing is not None and max_ongoing < 1:
        raise ConfigError("--max-ongoing", f"{max_ongoing} admits no request", "use 1 or more")
    if initial is not None and initial < 0:
        raise ConfigError("--initial", f"{initial} is negative", "use 0 or more")
    given = {
        "min_replicas": minimum,
        "max_replicas": maximum,
        "ttft_s": ttft,
        "ttft_per_prompt_token_s": None if ttft_per_1000 is None else ttft_per_1000 / 1000,
        "inter_token_s": inter_token,
        "attainment": attainment,
        "start_up_s": start_up,
        "refuse_late": refuse_late or None,
    }
    scaling, planned = scaling_settings(config, assign or (), given)
    times = service_times(planned, calibration, scaling.start_up_s if planned else start_up)
    context = planned.advice.plan.cache.max_model_len if planned and planned.advice.plan.cache else None
    title, arrivals, left_out = traffic(
        workload, trace, rate=rate, scale=scale, prompt=prompt, output=output, context=context, seed=seed
    )
    if trace is not None and arrivals[-1][0] == 0:
        raise ConfigError(
            f"--trace {trace}", "all of its requests come at one time", "give a trace of two times or more"
        )
    if warm_up < 0:
        raise ConfigError("--warm-up", f"{warm_up:g} is negative", "use 0 or more")
    if arrivals and warm_up >= arrivals[-1][0]:
        what = f"{warm_up:g} s leave nothing of a workload of {arrivals[-1][0]:g} s"
        raise ConfigError("--warm-up", what, "use less than its duration")
    if initial is None:
        initial = max(1, scaling.min_replicas) if planned else 4
    elif initial > scaling.max_replicas:
        what = f"{initial} is above the maximum of {counted(scaling.max_replicas, 'replica')}"
        raise ConfigError("--initial", what, f"use {scaling.max_replicas} or less, or raise --max")
    too_long = sum(sum(lengths) > context for _, *lengths in arrivals) if context else 0
    scenario = Scenario(
        arrivals,
        times,
        scaling.slo,
        FleetOptions(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            initial=initial,
            max_ongoing=max_ongoing,
            warm_up_s=warm_up,
            standby=standby,
            standby_s=standby_start_up,
            standby_price=standby_price,
            seed=seed,
        ),
        scaling if isinstance(scaling, ScalingSpec) else None,
    )
    if scaling.refuse_late:
        scenario = replace(scenario, options=replace(scenario.options, admission=scenario.spec()))
    attainment = scaling.attainment
    plans = [candidate for name in names for candidate in candidates(name, scenario)]
    trials = _run(scenario, plans, attainment, quiet=as_json)
    if tuned:
        groups = [[trial for trial in trials if trial.policy == name] for name in names]
        trials = [cheapest(group, attainment) or best(group) for group in groups]
    if chart is not None:
        _draw(chart, trials, title)
    if as_json:
        rows = [
            {"policy": trial.policy, "settings": trial.settings, **asdict(trial.score), **_costs(trial, price)}
            for trial in trials
        ]
        about = {"workload": title if trace is None else str(trace), "calibration": times.name, "kind": times.kind}
        counts = {"requests": len(arrivals), "left_out": dict(left_out), "too_long": too_long}
        typer.echo(json.dumps({**about, **counts, "trials": rows}, indent=2))
        return
    _headline(title, scenario, left_out)
    if too_long:
        typer.echo(
            f"{counted(too_long, 'request')} longer than max_model_len, {context:,} tokens: the engine refuses or cuts "
            "such requests; here they count as the others"
        )
    if planned and scaling.prefill_tokens_per_s is None:
        typer.echo(
            "scaling.prefill_tokens_per_s is not set, so the policy does not count the time that prompts take: set it "
            "to what `hybridserve loadtest --sweep` measures"
        )
    _print_table(trials, attainment, price, scaling.refuse_late)
    if times.kind == "bound":
        typer.echo(
            "Service times are bounds from the data sheet: real engines are slower. Measure with `make calibrate`."
        )


def _headline(title: str, scenario: Scenario, left_out: Mapping[str, int]) -> None:
    """What is simulated: the traffic, the replica, the bounds and the goals."""
    arrivals, times, options, slo = scenario.arrivals, scenario.times, scenario.options, scenario.slo
    seconds = max(1.0, arrivals[-1][0])
    prompts, outputs = (sum(lengths) / len(arrivals) for lengths in list(zip(*arrivals, strict=True))[1:])
    typer.echo(
        f"{title}: {counted(len(arrivals), 'request')} in {seconds / 3600:.2f} h, {len(arrivals) / seconds:.2f} a "
        f"second, on average {prompts:,.0f} prompt and {outputs:,.0f} output tokens"
    )
    if left_out:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items()))
        typer.echo(f"left out of the trace: {counted(sum(left_out.values()), 'request')} ({reasons})")
    typer.echo(
        f"replica: {times.name}, at most {counted(times.engine.max_num_seqs, 'sequence')} at once, starts in "
        f"{times.start_up_s:g} s"
    )
    bounds = sorted({options.min_replicas, options.max_replicas})
    inter = f", {slo.inter_token_s:g} s between tokens" if slo.inter_token_s else ""
    typer.echo(
        f"fleet: {' to '.join(map(str, bounds))} replica{'s' if bounds[-1] > 1 else ''}; goals: first token in "
        f"{slo.ttft_s:g} s and {slo.ttft_per_prompt_token_s * 1000:g} s for each 1000 prompt tokens{inter}"
    )
    if len(bounds) == 1:
        typer.echo(
            f"The fleet always has {counted(bounds[0], 'replica')} (scaling.min_replicas and max_replicas are equal): "
            "policies cannot differ, set --max"
        )


def _run(scenario: Scenario, plans: Sequence[PolicyConfig], attainment: float, quiet: bool) -> list[TuningResult]:
    """Run the trials, with a progress bar on a terminal; those beyond a grid only where the goal needs them."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, quiet=quiet or not Console(stderr=True).is_terminal)
    trials = []
    reached: set[str | None] = set()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("simulating", total=len(plans))
        for index, plan in enumerate(plans):
            if not (plan.beyond and plan.row in reached):
                bar.update(task, description=f"{plan.policy} {plan.settings}")
                trials.append(scenario.run(plan, partial(_advance, bar, task, index)))
                if trials[-1].score.attainment >= attainment:
                    reached.add(plan.row)
            bar.update(task, completed=index + 1)
    return trials


def _advance(bar: Progress, task: TaskID, before: int, done: float) -> None:
    bar.update(task, completed=before + done)


def _costs(trial: TuningResult, price: float | None) -> dict[str, float | None]:
    if price is None:
        return {}
    cost, per_million = trial.score.cost(price)
    return {"cost": cost, "cost_per_million_good_tokens": per_million}


def _print_table(
    trials: Sequence[TuningResult], attainment: float, price: float | None = None, refuse_late: bool = False
) -> None:
    from hybridserve.loadtest.tables import Table

    head = ["policy", "settings", "in goal", "TTFT p50", "p99", "inter-token p99"]
    head += ["good tok/s", "replica-h", "changes", "osc."]
    rows = [
        [
            trial.policy,
            trial.settings,
            f"{trial.score.attainment:.2%}{'' if trial.score.attainment >= attainment else ' !'}",
            f"{trial.score.ttft_p50:.2f} s",
            f"{trial.score.ttft_p99:.1f} s",
            f"{trial.score.inter_token_p99 * 1000:.0f} ms",
            f"{trial.score.goodput:,.0f}",
            f"{trial.score.replica_hours:.2f}",
            str(trial.score.scale_events),
            str(trial.score.oscillation),
        ]
        for trial in trials
    ]
    if refuse_late:
        head += ["refused", "of admitted in goal"]
        for row, trial in zip(rows, trials, strict=True):
            row += [
                f"{trial.score.refused / max(1, trial.score.requests):.2%}",
                f"{trial.score.admitted_attainment:.2%}",
            ]
    if price is not None:
        head += ["cost", "per M good tok"]
        for row, trial in zip(rows, trials, strict=True):
            cost, per_million = trial.score.cost(price)
            row += [f"{cost:.2f}", f"{per_million:.2f}" if per_million is not None else "-"]
    missed = any(trial.score.attainment < attainment for trial in trials)
    note = f"! less than {attainment:.0%} of the requests met both goals" if missed else ""
    Table(head, _merged(rows), note, text_columns=2).show()


def _merged(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows of one policy with the same numbers as one row, with the settings of the first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for policy, settings, *numbers in rows:
        groups.setdefault((policy, *numbers), []).append(settings)
    return [
        [policy, first + (f", and {len(rest)} more" if rest else ""), *numbers]
        for (policy, *numbers), (first, *rest) in groups.items()
    ]


def _list(
    workloads: Mapping[str, str], policies: Mapping[str, str], calibrations: Sequence[str], as_json: bool
) -> None:
    if as_json:
        found = {"workloads": dict(workloads), "policies": list(policies), "calibrations": list(calibrations)}
        typer.echo(json.dumps(found, indent=2))
        return
    for title, entries in (("traffic patterns (--workload)", workloads), ("policies (--policy)", policies)):
        width = max(map(len, entries))
        typer.echo(f"{title}:")
        for name, about in entries.items():
            typer.echo(f"  {name:<{width}}  {about}")
    typer.echo(f"calibrations (--calibration): {', '.join(calibrations)}")


def _draw(path: Path, trials: Sequence[TuningResult], title: str) -> None:
    from hybridserve.loadtest.charts import line_chart

    series = {
        f"{trial.policy} ({trial.settings}): {trial.score.attainment:.1%}, {trial.score.replica_hours:.1f} h": [
            (time / 3600, count) for time, count in trial.score.timeline
        ]
        for trial in trials
    }
    figure = line_chart(title, "hours", "target replicas", series, drawstyle="steps-post")
    figure.set_size_inches(10, 4.5)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError("--chart", f"{str(path)!r}: {error}", "use a file name that ends in .png or .svg") from None
