"""`hybridserve plan`: what fits on a GPU, which flags to set, and why."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridserve.catalog.accelerators import accelerator
from hybridserve.cli.options import (
    PLAN_OPTIONS,
    AsJson,
    Assignments,
    Concurrency,
    ConfigFile,
    Context,
    OutputTokens,
    PromptTokens,
    given_workload,
    known_gpus,
    known_models,
    read_settings,
    with_device,
)
from hybridserve.errors import ConfigError
from hybridserve.planning.cost import bound_cost, check_prices, cost_data, parse_prices
from hybridserve.planning.flags import Goal
from hybridserve.planning.recommend import Reuse
from hybridserve.planning.resolve import PlanOptions, plan_settings
from hybridserve.planning.workload import ASSUMED, Workload, from_csv
from hybridserve.settings import Option, Settings
from hybridserve.units import written_out

if TYPE_CHECKING:
    from hybridserve.planning.memory.profile import MemoryProfile
    from hybridserve.simulator.service_times import ServiceTimes

LENGTHS = (8192, 32768, 131072)

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Plan a model on a GPU: memory, cache, capacity, engine flags."
)


@app.command()
def plan(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Catalog id, repository, folder or config.json. Several are compared.",
            autocompletion=known_models,
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option("--gpu", metavar="GPU[,GPU]", help="Catalog id. Several are compared.", autocompletion=known_gpus),
    ] = None,
    config: ConfigFile = None,
    assign: Assignments = None,
    kv_bytes: Annotated[
        int | None, typer.Option(help="Bytes of the cache pool of each device, which is then not estimated.")
    ] = None,
    memory_gib: Annotated[
        float | None,
        typer.Option(help="Usable memory of one device, as PyTorch reports it (less than the nominal size)."),
    ] = None,
    compute_capability: Annotated[
        float | None, typer.Option(metavar="X.Y", help="Compute capability of the GPU named generic.")
    ] = None,
    context: Context = None,
    concurrency: Concurrency = None,
    batched_tokens: Annotated[int | None, typer.Option(help="max_num_batched_tokens of one step.")] = None,
    utilization: Annotated[float | None, typer.Option(help="gpu_memory_utilization, 0 to 1.")] = None,
    tp: Annotated[int | None, typer.Option(help="tensor_parallel_size.")] = None,
    pp: Annotated[int | None, typer.Option(help="pipeline_parallel_size.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Type of weights and activations.")] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="Type of keys and values: auto, fp8, ...")] = None,
    ssm_dtype: Annotated[str | None, typer.Option(help="mamba_ssm_cache_dtype.")] = None,
    prefix_caching: Annotated[bool | None, typer.Option(help="Reuse of shared prompt prefixes.")] = None,
    engine: Annotated[str | None, typer.Option(help="vLLM version to plan for.")] = None,
    prompt: PromptTokens = None,
    output: OutputTokens = None,
    requests: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Requests to plan for: columns prompt and output.")
    ] = None,
    reuse: Annotated[Reuse, typer.Option(help="Whether requests share prompt prefixes.")] = "unknown",
    goal: Annotated[Goal, typer.Option(help="What to optimize for.")] = "throughput",
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Pools reported by earlier starts; or step times, also by the simulator's name, for the cost.",
        ),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Compare models and GPUs at several lengths.")] = False,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Lengths to compare, in tokens. Default: those of --prompt and --output, or 8192,32768,131072.",
        ),
    ] = None,
    chart: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw cache bytes over sequence length.")] = None,
    bound: Annotated[
        bool, typer.Option("--bound", help="Show throughput bounds, and ratios to the last model.")
    ] = False,
    batches: Annotated[
        str | None, typer.Option(metavar="N,N", help="With --bound: number of sequences of each model.")
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare an operating curve of `loadtest --sweep` with the plan."),
    ] = None,
    price_per_hour: Annotated[
        str | None,
        typer.Option(metavar="PRICE or GPU=PRICE,...", help="Price of one GPU hour, for the cost of a million tokens."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List models and GPUs of the catalog.")] = False,
    as_json: AsJson = False,
) -> None:
    """Plan a model on a GPU: what fits, and which engine flags to set.

    \b
    Examples:
      hybridserve plan nemotron-nano-9b-v2 --gpu a10g --prompt 1024/4096 --output 512/2048
      hybridserve plan nemotron-nano-9b-v2 --gpu a10g --goal context
      hybridserve plan --compare nemotron-nano-9b-v2 qwen3-8b --gpu a10g,h100 --chart crossover.png
      hybridserve plan --compare nemotron-nano-9b-v2 --gpu a10g,l40s --price-per-hour a10g=1.0,l40s=1.9
      hybridserve plan --bound nemotron-nano-9b-v2 qwen3-8b --gpu a10g --prompt 8192 --output 16384
    """
    if list_:
        from hybridserve.cli.plan_list import show

        show(as_json)
        return
    given = {
        "--engine": engine,
        "--kv-bytes": kv_bytes,
        "--context": context,
        "--concurrency": concurrency,
        "--batched-tokens": batched_tokens,
        "--utilization": utilization,
        "--tp": tp,
        "--pp": pp,
        "--dtype": dtype,
        "--kv-cache-dtype": kv_cache_dtype,
        "--ssm-dtype": ssm_dtype,
        "--prefix-caching": prefix_caching,
        "--memory-gib": memory_gib,
        "--compute-capability": compute_capability,
    }
    flags = [Option(option, PLAN_OPTIONS[option], value) for option, value in given.items()]
    gpus = [name for group in gpu or () for name in group.split(",") if name]
    if gpu and not gpus:
        raise ConfigError("--gpu", f"no GPU in {' '.join(gpu)!r}", "give for example --gpu a10g; --list shows all")
    if batches is not None and not bound:
        raise ConfigError("--batches", "requires --bound", "add --bound")
    prices = parse_prices(price_per_hour) if price_per_hour is not None else {}
    workload = _workload(prompt, output, requests)
    pools, times = _calibration(calibration)
    options = PlanOptions(workload, goal, reuse, pools)

    several = compare or chart or lengths is not None or len(models or ()) > 1 or len(gpus) > 1
    if times and (several or bound or measured or not prices):
        raise ConfigError(
            "--calibration", "has step times, for the cost of one plan", "give one model, one GPU and --price-per-hour"
        )

    def settings(model: str | None, device: str | None) -> Settings:
        named = [Option("the argument MODEL", "model.id", model or None)]
        named.append(Option("--gpu", "accelerator.name", device or None))
        return with_device(read_settings(config, assign, [*named, *flags]))

    groups = [[settings(model, device) for model in models or (None,)] for device in gpus or (None,)]
    if prices:
        check_prices(prices, {accelerator(each.accelerator.name).id for group in groups for each in group})
    if bound:
        from hybridserve.cli.plan_bound import show_bound

        show_bound(groups, options, batches, as_json)
        return
    if several:
        from hybridserve.cli.plan_compare import compare_plans

        compare_plans(
            [each for group in groups for each in group],
            options,
            _lengths(lengths, workload),
            chart,
            prices,
            as_json,
        )
        return
    ((asked,),) = groups
    if measured is not None:
        from hybridserve.cli.plan_measured import show_measured

        curve = _read(measured, "--measured")
        show_measured(asked, options, curve, str(measured), prices, as_json)
        return
    from hybridserve.cli.plan_view import show_plan
    from hybridserve.planning.serialize import report

    planned = plan_settings(asked, options)
    content = report(planned)
    if prices:
        content["cost"] = cost_data(bound_cost(planned.advice.plan, workload, prices))
    if times:
        from hybridserve.cli.plan_calibration import calibrated_cost

        content["calibrated_cost"] = calibrated_cost(planned.advice.plan, workload, prices, times)
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        show_plan(content)


def _workload(prompt: str | None, output: str | None, requests: Path | None) -> Workload:
    if requests is not None:
        if prompt or output:
            raise ConfigError("--requests", "conflicts with --prompt and --output", "give either")
        return from_csv(_read(requests, "--requests"), str(requests))
    return given_workload(prompt, output)


def _calibration(name: str | None) -> "tuple[MemoryProfile | None, ServiceTimes | None]":
    if name is None:
        return None, None
    from hybridserve.cli.plan_calibration import read_calibration
    from hybridserve.planning.memory.profile import MemoryProfile

    found = read_calibration(name)
    return (found, None) if isinstance(found, MemoryProfile) else (None, found)


def _read(path: Path, flag: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(flag, f"{path} cannot be read: {error}", "give an existing text file") from None


def _lengths(text: str | None, workload: Workload) -> tuple[int, ...]:
    """The lengths to compare: those given, else p50 and p95 of the requests to plan for, else `LENGTHS`."""
    if text is None:
        return LENGTHS if workload is ASSUMED else tuple(dict.fromkeys((workload.p50, workload.p95)))
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if not lengths or min(lengths) < 1:
        fix = written_out(text, ",") or "write for example 8192,32768,131072"
        raise ConfigError("--lengths", f"{text!r} is not a list of token counts", fix)
    return lengths
