"""`hybridserve init`: the first hybridserve.yaml, commented and checked."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hybridserve import yamlio
from hybridserve.catalog.accelerators import accelerators
from hybridserve.catalog.models import model_ids
from hybridserve.cli.machine import gpus
from hybridserve.cli.options import (
    SETTINGS_FILE,
    AsJson,
    Assignments,
    Concurrency,
    Context,
    OutputTokens,
    PromptTokens,
    given_workload,
    known_gpus,
    known_models,
    read_settings,
)
from hybridserve.deployment.compliance_view import production_decisions
from hybridserve.deployment.starter import starter_yaml
from hybridserve.errors import ConfigError
from hybridserve.files import write_text
from hybridserve.planning.resolve import PlanOptions, plan_settings
from hybridserve.planning.serialize import asked_data, more_than_usable, too_long
from hybridserve.settings import Option, Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Write a commented, checked hybridserve.yaml.")

Generic = "only for --gpu generic, or a part of a GPU"


@app.command()
def init(
    model: Annotated[
        str | None, typer.Argument(help="Catalog id, repository or folder.", autocompletion=known_models)
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="Catalog id of the GPU, or cpu.", autocompletion=known_gpus)] = None,
    memory_gib: Annotated[float | None, typer.Option(help=f"Usable memory of one device; {Generic}.")] = None,
    compute_capability: Annotated[float | None, typer.Option(metavar="X.Y", help="For --gpu generic.")] = None,
    assign: Assignments = None,
    prompt: PromptTokens = None,
    output: OutputTokens = None,
    context: Context = None,
    concurrency: Concurrency = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")] = SETTINGS_FILE,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented, checked hybridserve.yaml. On a terminal it asks for what is missing.

    \b
    Examples:
      hybridserve init demo
      hybridserve init nemotron-nano-9b-v2 --gpu l40s --prompt 1024/4096 --output 512/2048 --concurrency 40
      hybridserve init nemotron-nano-12b-v2 --gpu h100 --set engine.tensor_parallel_size=2
    """
    if out.exists() and not force:
        raise ConfigError(str(out), "exists", "add --force to replace it, or --out FILE")
    asking = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    if model is None and asking:
        model = _ask("Model", "nemotron-nano-9b-v2" if gpus() else "demo", model_ids())
    if model is None:
        raise ConfigError("MODEL", "is missing", "hybridserve init MODEL --gpu GPU; hybridserve plan --list has both")
    if gpu is None and model == "demo":
        gpu = "cpu"
    if gpu is None and asking:
        here = [device.id for found in gpus() if (device := found.known) is not None]
        gpu = _ask("GPU", here[0] if here else "a10g", [device.id for device in accelerators()])
    if gpu is None:
        raise ConfigError(
            "--gpu", "is missing", "hybridserve plan --list has all, hybridserve doctor those of this machine"
        )
    named = [
        Option("the argument MODEL", "model.id", model),
        Option("--gpu", "accelerator.name", gpu),
        Option("--memory-gib", "accelerator.memory_gib", memory_gib),
        Option("--compute-capability", "accelerator.compute_capability", compute_capability),
        Option("--context", "engine.max_model_len", context),
        Option("--concurrency", "engine.max_num_seqs", concurrency),
    ]
    # Only what was given here: the environment is not part of the file.
    settings = read_settings(None, assign, named, environ={}).settings
    today = datetime.now(UTC).date()
    given = settings.model_dump(mode="json", exclude_unset=True)
    asked = plan_settings(settings, PlanOptions(given_workload(prompt, output)))
    text = starter_yaml(asked, given, today)
    warnings = [*more_than_usable(asked), *too_long(asked)]
    if (sequences := asked_data(asked)) is not None and not sequences["fits"]:
        warnings.append(
            f"{sequences['sequences']:,} requests at once (engine.max_num_seqs) do not fit at {sequences['length']:,} "
            f"tokens each: {sequences['most']:,} do, the others wait or are preempted"
        )
    # The plan and the check of the text itself, before it is written.
    planned = plan_settings(Settings.model_validate(yamlio.parse(text, str(out))))
    decisions = production_decisions(planned, today)
    write_text(out, text)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "file": str(out),
                    "model": planned.model.id,
                    "gpu": gpu,
                    "decisions": decisions,
                    "warnings": warnings,
                },
                indent=2,
            )
        )
        return
    typer.echo(f"wrote {out}: {planned.model.id} on {gpu}, profile {planned.settings.server.profile}\n")
    # The lengths are no settings: without them the next plan would assume others.
    lengths = "".join(f" {flag} {value}" for flag, value in (("--prompt", prompt), ("--output", output)) if value)
    typer.echo(
        f"next  hybridserve plan -c {out}{lengths}\n      hybridserve check -c {out}\n      hybridserve serve -c {out}"
    )
    for warning in warnings:
        typer.echo(f"\nwarning: {warning}")
    if decisions:
        typer.echo("\nBefore server.profile production, a person decides:")
        for line in decisions:
            typer.echo(f"- {line}")


def _ask(what: str, default: str, known: Sequence[str]) -> str:
    """Ask on the terminal until the answer is known, or looks like a repository or a folder."""
    while True:
        answer: str = typer.prompt(what, default=default).strip()
        if answer in known or "/" in answer:
            return answer
        close = difflib.get_close_matches(answer, known, n=3, cutoff=0.4)
        hint = f"like it: {', '.join(close)}" if close else "see hybridserve plan --list"
        typer.echo(f"{answer!r} is not known; {hint}")
