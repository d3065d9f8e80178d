"""Engine arguments written out: a `vllm serve` command line, and a Ray `LLMConfig`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from hybridserve.catalog.accelerators import accelerator
from hybridserve.settings import Settings

# Arguments that have their own fields in an LLMConfig.
LLM_CONFIG_FIELDS = frozenset({"model", "served_model_name"})


def command_line(args: Mapping[str, Any], host: str | None = None, port: int | None = None) -> list[str]:
    """The words of a `vllm serve` command.

    A boolean becomes ``--flag`` or ``--no-flag``, a list several words, a mapping JSON.
    """
    rest = {name: value for name, value in args.items() if name != "model"}
    if host is not None:
        rest["host"] = host
    if port is not None:
        rest["port"] = port
    words = ["vllm", "serve", str(args["model"])]
    for name, value in rest.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is False:
            words.append("--no-" + name.replace("_", "-"))
        elif isinstance(value, Mapping):
            words += [flag, json.dumps(value, separators=(",", ":"))]
        elif isinstance(value, (list, tuple)):
            words += [flag, *(str(part) for part in value)]
        else:
            words += [flag, str(value)]
    return words


def shell(words: list[str]) -> str:
    """A shell command with one flag per line."""
    lines = [shlex.join(words[:3])]
    for word in words[3:]:
        if word.startswith("--"):
            lines.append(shlex.quote(word))
        else:
            lines[-1] += " " + shlex.quote(word)
    return " \\\n  ".join(lines)


def llm_config(settings: Settings, args: Mapping[str, Any]) -> dict[str, Any]:
    """The `LLMConfig` of Ray Serve for the same arguments, as plain data.

    Ray separates the server's arguments (chat_template, tool_call_parser) from `engine_kwargs`.

    Raises:
        CatalogError: the accelerator is unknown.
    """
    names = args.get("served_model_name") or [args["model"]]
    device = accelerator(settings.accelerator.name)
    config: dict[str, Any] = {"model_loading_config": {"model_id": names[0], "model_source": args["model"]}}
    if device.ray_accelerator_type is not None:
        config["accelerator_type"] = device.ray_accelerator_type
    if device.platform == "cpu":
        config["accelerator_config"] = {"kind": "cpu"}
    config["engine_kwargs"] = {name: value for name, value in args.items() if name not in LLM_CONFIG_FIELDS}
    return config
