"""What of the things that shape a model's behaviour was changed in this deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridserve.compliance.view import DeploymentView

# Engine arguments that replace a part of the checkpoint, or reach into its answers. Value: when it counts as set.
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
}


def overrides(args: Mapping[str, Any]) -> list[str]:
    """Overrides that are set, as ``chat_template: another chat template``. Empty values do not count."""
    found = [f"{name} ({what})" for name, what in OVERRIDES.items() if args.get(name)]
    # vLLM's own default is "auto": the checkpoint's file. "vllm" or a path leaves the checkpoint's out.
    if args.get("generation_config") not in (None, "auto"):
        found.append("generation_config (not the checkpoint's)")
    return found


def changed_files(view: DeploymentView) -> list[str]:
    """Names of files whose hash is known and differs, or that are gone from the model's folder."""
    present = view.files.present
    if present is None:
        return []
    return sorted(name for name, digest in view.files.pinned.items() if present.get(name) != digest)


def alterations(view: DeploymentView) -> list[str]:
    """Everything of the kind, in words."""
    return overrides(view.engine.args) + [f"{name} differs" for name in changed_files(view)]
