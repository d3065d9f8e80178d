"""Evidence from a running service: the rules that only a running service can satisfy, and the record that is kept.

`hybridserve.guards.canaries` collects the evidence; this module reads and verifies it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridserve.compliance.documents import digest
from hybridserve.compliance.rules.base import Rule
from hybridserve.errors import ConfigError
from hybridserve.settings import Settings

SCHEMA = "hybridserve.evidence/1"
VERIFY_SCHEMA = "hybridserve.verify/1"


def _live_rule(name: str, title: str, *, basis: str, remedy: str) -> Rule:
    return Rule(f"evidence.{name}", "evidence", "error", title, basis, remedy)


LIVE_RULES: tuple[Rule, ...] = (
    _live_rule(
        "must-block",
        "Harmful prompts are blocked",
        basis="one prompt per category through the public route; only the guard's own 400 counts, not a refusal by the "
        "model",
        remedy="check guard.url and guard.model, and that the route passes through the gateway",
    ),
    _live_rule(
        "must-pass",
        "Harmless prompts are answered",
        basis="a guard that blocks everything, or that is down, passes every test of blocking",
        remedy="read the guard's verdicts in the log; a smaller guard model may block too much",
    ),
    _live_rule(
        "stream",
        "No text of a stream is delivered before the guard's verdict, and an allowed stream is complete",
        basis="NeMo Guardrails delivers streams before the check by default (stream_first: True)",
        remedy="set guard.input to before or overlap, and guard.output to true",
    ),
    _live_rule(
        "reasoning",
        "Reasoning text is withheld until the verdict, like the answer",
        basis="vLLM delivers it in a separate field (reasoning, in older releases reasoning_content)",
        remedy="set guard.output to true; check that no proxy in front of the service adds a route",
    ),
    _live_rule(
        "second-turn",
        "The guard checks the whole conversation, not only its first or last turn",
        basis="a harmful turn can precede or follow a harmless one",
        remedy="check how the conversation is sent to the guard (guard.format, guard.prompt_file)",
    ),
    _live_rule(
        "tool-result",
        "The guard checks the results of tools",
        basis="the model reads text from a tool in the same way as text from a user",
        remedy="check how the conversation is sent to the guard (guard.format, guard.prompt_file)",
    ),
    _live_rule(
        "guard-down",
        "While the guard is down the service answers 503 guard_unavailable",
        basis="https://github.com/NVIDIA-NeMo/Guardrails/pull/2318: an outage looked like a refusal; issue 2045: "
        "requests passed unchecked",
        remedy="start a replica whose guard.url is a closed port and give its address with --guard-down",
    ),
)


def seal_record(body: Mapping[str, Any]) -> dict[str, Any]:
    """The record with `sha256`, the digest of its other fields."""
    return {**body, "sha256": digest(body)}


def is_intact(record: Mapping[str, Any]) -> bool:
    """Whether the record is unchanged since it was written: its digest matches."""
    return record.get("sha256") == digest({key: value for key, value in record.items() if key != "sha256"})


def tested_settings(settings: Settings) -> str:
    """Digest of the settings that a record is valid for: those that decide what is checked and what is answered."""
    sections = settings.model_dump(mode="json", include={"model", "engine", "reasoning", "guard", "access"})
    for name in ("evidence_file", "evidence_max_age_days"):
        del sections["guard"][name]
    if sections["model"]["config"] is None:  # a record that is older than the setting stays valid
        del sections["model"]["config"]
    sections["access"] = {name: sections["access"][name] for name in ("open_routes", "refused_fields")}
    return digest(sections)


def subject(settings: Settings) -> dict[str, Any]:
    """The deployment that a record is about: model, guard, and digest of the settings."""
    return {
        "model": {
            "id": settings.model.id,
            "revision": settings.model.revision,
            "served_name": settings.model.served_name or settings.model.id,
        },
        "guard": settings.guard.model_dump(mode="json", include={"kind", "model", "revision", "served_name"}),
        "settings_sha256": tested_settings(settings),
    }


def read_evidence(file: Path) -> Mapping[str, Any]:
    """The record that `check --live` wrote.

    Raises:
        ConfigError: the file cannot be read, or was changed after it was written.
    """
    return _read(file, "guard.evidence_file", "write it with hybridserve check --live URL --evidence FILE")


def read_verification(file: Path) -> Mapping[str, Any]:
    """The record that `verify --evidence` wrote.

    Raises:
        ConfigError: the file cannot be read, was changed after it was written, or is another record.
    """
    setting, fix = "verify.evidence_file", "write it with hybridserve verify URL --evidence FILE"
    record = _read(file, setting, fix)
    if record.get("schema") != VERIFY_SCHEMA:
        raise ConfigError(setting, f"{file} is not a record of hybridserve verify", fix)
    return record


def _read(file: Path, setting: str, fix: str) -> Mapping[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(setting, f"{file} cannot be read: {error}", fix) from None
    if not isinstance(record, dict) or not is_intact(record):
        raise ConfigError(setting, f"{file} was changed: its digest does not match its content", fix)
    return record
