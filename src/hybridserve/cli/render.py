"""`hybridserve render vllm`: the planned arguments for people and programs who start the engine themselves."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer
import yaml

from hybridserve.cli.options import Assignments, ConfigFile
from hybridserve.planning.advice import Goal
from hybridserve.planning.engine_args import Wishes, engine_args, plan_settings
from hybridserve.planning.render import command_line, llm_config, shell
from hybridserve.settings import load

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write the planned engine arguments out.")


@app.callback()
def root() -> None:
    """Keep `vllm` a word of its own: other engines and files may follow."""


@app.command()
def vllm(
    model: Annotated[str | None, typer.Argument(help="Catalogue id, repository or folder.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Catalogue id of the GPU.")] = None,
    config: ConfigFile = None,
    assign: Assignments = None,
    goal: Annotated[Goal, typer.Option(help="What to get the most of.")] = "throughput",
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
    named = [f"model.id={json.dumps(model)}"] if model else []
    named += [f"accelerator.name={json.dumps(gpu)}"] if gpu else []
    settings = load(config, [*named, *(assign or ())]).settings
    args = engine_args(settings, plan_settings(settings, Wishes(goal=goal)))
    if as_json or format_ == "json":
        typer.echo(json.dumps(args, indent=2))
    elif format_ == "llmconfig":
        typer.echo(yaml.safe_dump(llm_config(settings, args), sort_keys=False), nl=False)
    else:
        typer.echo(shell(command_line(args, settings.server.host, settings.server.port)))
