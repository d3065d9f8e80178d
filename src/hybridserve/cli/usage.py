"""Mistakes on the command line, which the option parser finds, as errors in three parts."""

from __future__ import annotations

import re
from typing import Any

import typer

from hybridserve.errors import ConfigError
from hybridserve.units import written_out

# Typer has the class, but exports only this subclass of it.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

_NO_INTEGER = re.compile(r"'(?P<text>[^']+)' is not a valid integer")


def usage_error(error: Any, verb: str | None = None) -> ConfigError:
    """The error for an unknown option or command, a missing or malformed value, or a superfluous argument.

    Args:
        error: an instance of `UsageError`.
        verb: the verb that was being read, where the error does not know it.
    """
    command = error.ctx.command_path if error.ctx else f"hybridserve {verb}" if verb else "hybridserve"
    see = f"`{command} --help` lists what it takes"
    message = _message(error).rstrip(".")
    option, param = getattr(error, "option_name", None), getattr(error, "param", None)
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
        number = _NO_INTEGER.match(message)
        hint = number and written_out(number["text"])
        return ConfigError(where, message or "is missing", f"{hint}; {see}" if hint else see)  # missing: no message
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


def _message(error: Any) -> str:
    """What is wrong. The parser's words for a value of the wrong type are pydantic's, which do not name the value."""
    message = str(error.message).removeprefix("Value error, ").partition(", unable to parse")[0]
    faults = error.__cause__.errors() if hasattr(error.__cause__, "errors") else []
    wanted = message.removeprefix("Input should be ")
    return f"{faults[0]['input']!r} is not {wanted}" if faults and wanted != message else message
