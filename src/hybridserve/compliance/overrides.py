"""Changes to a model's behavior: engine arguments that replace parts of the checkpoint, and changed files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from hybridserve.compliance.rules.exposure import REVEALING
from hybridserve.compliance.view import DeploymentView

# Engine arguments that replace a part of the checkpoint or change its answers, each with a description.
OVERRIDES: Mapping[str, str] = {
    "chat_template": "another chat template",
    "default_chat_template_kwargs": "other defaults of the chat template",
    "trust_request_chat_template": "templates from requests",
    "hf_overrides": "fields of config.json replaced",
    "hf_config_path": "another config.json",
    "tokenizer": "another tokenizer",
    "tokenizer_revision": "another revision of the tokenizer",
    "code_revision": "another revision of the model's code",
    "override_generation_config": "generation defaults replaced",
    "model_weights": "weights from elsewhere",
    "ignore_patterns": "files of the checkpoint left out",
    "weight_transfer_config": "weights replaced while the engine runs",
    "quantization_config": "other quantization of the weights",
    "model_class_overrides": "another implementation of the model",
    "reasoning_parser_plugin": "code that separates reasoning",
    "tool_parser_plugin": "code that parses tool calls",
    "logits_processors": "logits processors",
    "enable_lora": "LoRA adapters",
    "lora_modules": "LoRA adapters",
    "default_mm_loras": "LoRA adapters",
    "enable_prompt_embeds": "prompts that the guard cannot read",
    "enable_mm_embeds": "prompts that the guard cannot read",
    "tokens_only": "prompts and answers that the guard cannot read",
    "enable_trace_replay": "answers from requests",
    "middleware": "code around the engine's API",
    "worker_cls": "another worker",
    "worker_extension_cls": "code in the worker",
    "scheduler_cls": "another scheduler",
    "io_processor_plugin": "code between API and engine",
    "tool_server": "tools that the engine calls itself, whose results the guard cannot read",
}

# Arguments with a choice, of which these keep the checkpoint and vLLM's own code.
HARMLESS: Mapping[str, frozenset[str]] = {
    "generation_config": frozenset({"auto"}),  # the checkpoint's file
    "load_format": frozenset({
        "auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "mistral", "npcache", "pt", "runai_streamer",
        "runai_streamer_sharded", "sharded_state",
    }),
    "config_format": frozenset({"auto", "hf", "mistral"}),
    "tokenizer_mode": frozenset({"auto", "hf", "slow", "mistral"}),
    "model_impl": frozenset({"auto", "vllm"}),
    "distributed_executor_backend": frozenset({"mp", "ray", "uni", "external_launcher"}),
}  # fmt: skip
# vLLM takes the beginning of an argument's name for the argument. These are whole names, although others begin so.
WHOLE_NAMES = frozenset({"config", "model", "quantization", "reasoning_parser", "tokenizer"})
JUDGED_ARGUMENTS = frozenset({*OVERRIDES, *HARMLESS, *REVEALING, "speculative_config", "trust_remote_code"})
# Keys inside other arguments that name code or a plugin: kv_transfer_config.kv_connector_module_path,
# compilation_config.inductor_passes, structured_outputs_config.reasoning_parser_plugin.
_CODE = re.compile(r"(_module_path|_plugin|_cls|_class|_passes)$")


def overrides(args: Mapping[str, Any]) -> list[str]:
    """Overrides that are set, as ``chat_template (another chat template)``. Empty values do not count."""
    found = [f"{name} ({what})" for name, what in OVERRIDES.items() if args.get(name)]
    found += [f"{name} ({args[name]})" for name, known in HARMLESS.items() if args.get(name) not in (None, *known)]
    found += [f"{name} (short for {full})" for name in args if name not in WHOLE_NAMES
              for full in sorted(JUDGED_ARGUMENTS) if full.startswith(name) and full != name]  # fmt: skip
    return found + [f"{path} (code)" for path in _code_names(args) if path not in OVERRIDES]


def _code_names(value: Any, path: str = "") -> Iterator[str]:
    """Paths of keys that name code, at any depth."""
    if isinstance(value, str) and value.lstrip().startswith("{"):  # JSON, as on a command line
        with suppress(ValueError):
            value = json.loads(value)
    items = enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in value.items() if isinstance(value, Mapping) else items:
        if inner and _CODE.search(str(key)):
            yield f"{path}{key}"
        yield from _code_names(inner, f"{path}{key}.")


def alterations(view: DeploymentView) -> list[str]:
    """Overrides that are set, and files that are missing or whose hash differs from the recorded one."""
    present = view.files.present
    changed = [] if present is None else [name for name, sha in view.files.pinned.items() if present.get(name) != sha]
    return overrides(view.engine.args) + [f"{name} differs" for name in sorted(changed)]
