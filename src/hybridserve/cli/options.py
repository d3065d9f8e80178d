"""Options shared by several verbs, and what a shell completes for them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hybridserve.cli.sources import remember_sources, settings_read
from hybridserve.errors import ConfigError
from hybridserve.planning.workload import ASSUMED, Workload, from_quantiles
from hybridserve.settings import Loaded, Option, Settings, load

SETTINGS_FILE = Path("hybridserve.yaml")
"""Where `hybridserve init` writes, and what pages name. No command reads it without `-c`."""

ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", metavar="FILE", help="YAML file with settings.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Set one value, as --set engine.max_num_seqs=8. Repeatable."
    ),
]
Context = Annotated[int | None, typer.Option("--context", help="max_model_len: longest prompt plus output, in tokens.")]
Concurrency = Annotated[
    int | None,
    typer.Option(help="Requests to run at once (max_num_seqs): the plan says whether they fit. Default: what fits."),
]
PromptTokens = Annotated[str | None, typer.Option(metavar="N or P50/P95", help="Prompt tokens of requests.")]
OutputTokens = Annotated[str | None, typer.Option(metavar="N or P50/P95", help="Output tokens of requests.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

PLAN_OPTIONS: Mapping[str, str] = {
    "--engine": "engine.version",
    "--kv-bytes": "engine.kv_cache_memory_bytes",
    "--context": "engine.max_model_len",
    "--concurrency": "engine.max_num_seqs",
    "--batched-tokens": "engine.max_num_batched_tokens",
    "--utilization": "engine.gpu_memory_utilization",
    "--tp": "engine.tensor_parallel_size",
    "--pp": "engine.pipeline_parallel_size",
    "--dtype": "engine.dtype",
    "--kv-cache-dtype": "engine.kv_cache_dtype",
    "--ssm-dtype": "engine.mamba_ssm_cache_dtype",
    "--prefix-caching": "engine.enable_prefix_caching",
    "--memory-gib": "accelerator.memory_gib",
    "--compute-capability": "accelerator.compute_capability",
}
"""Options of `hybridserve plan` that set one setting each. Other commands take most of them as `--set` only."""


def read_settings(
    config: Path | None,
    assign: Sequence[str] | None,
    options: Sequence[Option] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """The settings of a command, and where each came from, which an error that is found later names.

    Where a file of settings is here that the command does not read, and no argument names a model, a line on standard
    error says so.

    Raises:
        ConfigError: as `load`.
    """
    named = any(option.path == "model.id" and option.value for option in options)
    # `plan` reads the settings once for each GPU.
    if config is None and not named and not settings_read() and SETTINGS_FILE.is_file():
        typer.echo(f"note: ./{SETTINGS_FILE} is not read; to read it add -c {SETTINGS_FILE}", err=True)
    loaded = load(config, assign or (), environ, options)
    remember_sources(loaded.sources)
    return loaded


def known_models(incomplete: str) -> list[str]:
    """Catalog ids of models that begin so."""
    from hybridserve.catalog.models import model_ids

    return [name for name in model_ids() if name.startswith(incomplete)]


def known_gpus(incomplete: str) -> list[str]:
    """Catalog ids of devices that begin so."""
    from hybridserve.catalog.accelerators import accelerators

    return [device.id for device in accelerators() if device.id.startswith(incomplete)]


def given_workload(prompt: str | None, output: str | None) -> Workload:
    """The lengths to plan for: those of `--prompt` and `--output`, or assumed ones in place of what is missing."""
    if prompt is None and output is None:
        return ASSUMED
    given = from_quantiles(prompt or "1024", output or "512")
    missing = "--prompt" if prompt is None else "--output" if output is None else None
    return replace(given, source=f"{given.source} ({missing} is assumed)") if missing else given


def with_device(loaded: Loaded) -> Settings:
    """The settings, where something says which device to plan for. The demo model is for the CPU.

    Raises:
        ConfigError: another model, and no device is named.
    """
    settings = loaded.settings
    if loaded.sources["accelerator.name"] == "default" and settings.model.id != "demo":
        raise ConfigError(
            "--gpu",
            f"is missing for {settings.model.id}",
            "--gpu GPU (hybridserve plan --list has all, hybridserve doctor those of this machine), or --gpu cpu",
        )
    return settings
