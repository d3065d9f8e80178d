"""Mistakes on the command line, which the option parser finds, as errors in three parts."""

from __future__ import annotations

from typing import Any

import typer

from hybridserve.errors import ConfigError
from hybridserve.units import written_in_gib, written_out

# Typer has the class, but exports only this subclass of it.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def usage_error(error: Any, verb: str | None = None) -> ConfigError:
    """The error for an unknown option or command, a missing or malformed value, or a superfluous argument.

    Args:
        error: an instance of `UsageError`.
        verb: the verb that was being read, where the error does not know it.
    """
    command = error.ctx.command_path if error.ctx else f"hybridserve {verb}" if verb else "hybridserve"
    see = f"`{command} --help` lists what it takes"
    option, param = getattr(error, "option_name", None), getattr(error, "param", None)
    message, form = _fault(error, str(getattr(param, "name", "")))
    if hasattr(error, "possibilities"):
        if option is not None and (other := _other_way(option, error.ctx)):
            return ConfigError(option, f"is no option of `{command}`", f"{other}; {see}")
        meant = f"did you mean {' or '.join(error.possibilities)}? " if error.possibilities else ""
        return ConfigError(option or command, f"is no option of `{command}`", f"{meant}{see}")
    if option is not None:
        return ConfigError(option, message, see)
    if param is not None:
        argument = param.param_type_name == "argument"
        where = param.metavar or str(param.name).upper() if argument else max(param.opts, key=len)
        return ConfigError(where, message or "is missing", f"{form}; {see}" if form else see)  # missing: no message
    return ConfigError(command, message, see)


def _other_way(option: str, context: Any) -> str | None:
    """How to give a command what only `hybridserve plan` has as an option; None for other options."""
    from hybridserve.cli.options import PLAN_OPTIONS

    if context is None or not any("--set" in param.opts for param in context.command.params):
        return None
    name = option.partition("=")[0]
    if name == "--goal":
        return "set what `hybridserve plan --goal` shows, with --set engine.KEY=VALUE"
    path = PLAN_OPTIONS.get(name)
    return path and f"give it as --set {path}=VALUE"


def _fault(error: Any, name: str) -> tuple[str, str | None]:
    """What is wrong, and what to write. The parser's words for a value of the wrong type are pydantic's.

    Args:
        name: of the parameter; one that ends with `_gib` is a size.
    """
    if not hasattr(error.__cause__, "errors"):
        return str(error.message).rstrip("."), None
    from hybridserve.validation import describe

    fault = error.__cause__.errors()[0]
    if "does not match the format" in fault["msg"]:  # the parser's own check of a date
        return f"{fault['input']!r} is not a date", "write a date, such as 2026-11-28"
    what, form = describe(fault)
    written = written_out(str(fault["input"])) if fault["type"] == "int_parsing" else None
    written = written_in_gib(str(fault["input"])) if name.endswith("_gib") else written
    return what.rstrip("."), written or (f"write {form}" if form else None)
