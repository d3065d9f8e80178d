"""Changes to a model's behavior: engine arguments that replace parts of the checkpoint, and changed files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    "logits_processors": "logits processors",
    "logits_processor_pattern": "logits processors from requests",
    "enable_lora": "LoRA adapters",
    "lora_modules": "LoRA adapters",
    "enable_prompt_embeds": "prompts that the guard cannot read",
    "middleware": "code around the engine's API",
    "worker_cls": "another worker",
    "worker_extension_cls": "code in the worker",
    "scheduler_cls": "another scheduler",
    "io_processor_plugin": "code between API and engine",
    "tool_server": "tools that the engine calls itself, whose results the guard cannot read",
}


def overrides(args: Mapping[str, Any]) -> list[str]:
    """Overrides that are set, as ``chat_template (another chat template)``. Empty values do not count."""
    found = [f"{name} ({what})" for name, what in OVERRIDES.items() if args.get(name)]
    # vLLM's own default, "auto", uses the checkpoint's file; "vllm" or a path does not.
    if args.get("generation_config") not in (None, "auto"):
        found.append("generation_config (not the checkpoint's)")
    if args.get("load_format") == "dummy":
        found.append("load_format (random weights)")
    return found


def alterations(view: DeploymentView) -> list[str]:
    """Overrides that are set, and files that are missing or whose hash differs from the recorded one."""
    present = view.files.present
    changed = [] if present is None else [name for name, sha in view.files.pinned.items() if present.get(name) != sha]
    return overrides(view.engine.args) + [f"{name} differs" for name in sorted(changed)]
