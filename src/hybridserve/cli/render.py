"""`hybridserve render`: the planned engine arguments as a command or LLMConfig, and values for the Helm chart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from hybridserve.cli.options import (
    AsJson,
    Assignments,
    ConfigFile,
    OutputTokens,
    PromptTokens,
    given_workload,
    known_gpus,
    known_models,
    read_settings,
    with_device,
)
from hybridserve.planning.flags import Goal
from hybridserve.planning.render import command_line, llm_config, shell
from hybridserve.planning.resolve import PlanOptions, ResolvedPlan, engine_args, plan_settings
from hybridserve.planning.serialize import more_than_usable, parser_notes
from hybridserve.settings import Option, Settings

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Print the plan as engine flags or Helm values.",
)


@app.command()
def vllm(
    model: Annotated[
        str | None, typer.Argument(help="Catalog id, repository or folder.", autocompletion=known_models)
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="Catalog id of the GPU.", autocompletion=known_gpus)] = None,
    config: ConfigFile = None,
    assign: Assignments = None,
    prompt: PromptTokens = None,
    output: OutputTokens = None,
    goal: Annotated[Goal, typer.Option(help="What to optimize for.")] = "throughput",
    format_: Annotated[
        Literal["cli", "llmconfig", "json"], typer.Option("--format", help="Command line, Ray LLMConfig (YAML), JSON.")
    ] = "cli",
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
) -> None:
    """Print the `vllm serve` command or the Ray LLMConfig that `hybridserve serve` would use.

    \b
    Examples:
      hybridserve render vllm nemotron-nano-9b-v2 --gpu l40s
      hybridserve render vllm -c hybridserve.yaml --format llmconfig
    """
    settings = _load(config, model, gpu, assign)
    planned = plan_settings(settings, PlanOptions(given_workload(prompt, output), goal))
    args = engine_args(settings, planned)
    if args.get("prefix_match_unit"):
        typer.echo("prefix_match_unit needs hybridserve installed beside vLLM: its plugin corrects a copy", err=True)
    for line in (*_assumed(planned), *more_than_usable(planned), *parser_notes(planned.model.card, settings.engine)):
        typer.echo(line, err=True)
    if as_json or format_ == "json":
        typer.echo(json.dumps(args, indent=2))
    elif format_ == "llmconfig":
        typer.echo(yaml.safe_dump(llm_config(settings, args), sort_keys=False), nl=False)
    else:
        typer.echo(shell(command_line(args, settings.server.host, settings.server.port)))


@app.command()
def helm(
    model: Annotated[
        str | None, typer.Argument(help="Catalog id, repository or folder.", autocompletion=known_models)
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="Catalog id of the GPU.", autocompletion=known_gpus)] = None,
    config: ConfigFile = None,
    assign: Assignments = None,
    prompt: PromptTokens = None,
    output: OutputTokens = None,
    mode: Annotated[
        Literal["standalone", "rayservice"], typer.Option(help="A Deployment, or KubeRay's RayService.")
    ] = "standalone",
    scaler: Annotated[
        Literal["keda", "hpa", "none"] | None,
        typer.Option(
            help="What scales pods of mode standalone from scaling.min_replicas to max_replicas; none: max_replicas "
            "pods. Default: keda where the two differ."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print values for the Helm chart: the settings with the plan pinned, and matching resources.

    Comments at the top say what the release needs beside them. Files that the settings name are included, except for
    secrets. With guard.kind model and no guard.url the chart runs the guard, too.

    \b
    Examples:
      hybridserve render helm nemotron-nano-9b-v2 --gpu l40s --prompt 1024/4096 --output 512/2048 > values.yaml
      hybridserve render helm nemotron-nano-9b-v2 --gpu l40s --set scaling.max_replicas=4 > values.yaml
      hybridserve render helm -c hybridserve.yaml --mode rayservice > values.yaml
      helm install assistant helm/hybridserve -n serving --create-namespace --values values.yaml
    """
    from hybridserve.cli.helm_needs import about, needs
    from hybridserve.cli.helm_values import helm_values, undecided

    planned = plan_settings(_load(config, model, gpu, assign), PlanOptions(given_workload(prompt, output)))
    values = helm_values(planned.settings, mode, planned, scaler)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    for line in (*_assumed(planned), *more_than_usable(planned), *about(values, planned)):
        typer.echo(f"# {line}")
    if required := needs(values, planned):
        typer.echo("# Before helm install:")
        for line in required:
            typer.echo(f"# - {line}")
    if todo := undecided(values, planned, datetime.now(UTC).date()):
        typer.echo("# For settings.server.profile production, a person decides:")
        for line in todo:
            typer.echo(f"# - {line}")
    typer.echo(dump(values), nl=False)


def _assumed(planned: ResolvedPlan) -> list[str]:
    """For which lengths the plan chose numbers; none where the settings have them."""
    return [f"planned for {planned.advice.workload.source}"] if planned.settings.engine.max_num_seqs is None else []


def dump(values: Mapping[str, Any]) -> str:
    """Readable YAML: keys in the given order, multi-line strings as blocks."""

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def _load(config: Path | None, model: str | None, gpu: str | None, assign: list[str] | None) -> Settings:
    named = [Option("the argument MODEL", "model.id", model or None), Option("--gpu", "accelerator.name", gpu or None)]
    return with_device(read_settings(config, assign, named))
