"""Strict parsers for the verdicts of guard models. Text that is not exactly a verdict is an error, never "safe".

Sources of the formats: the model cards of Llama-3.1-Nemotron-Safety-Guard-8B-v3 (JSON), Nemotron-3(.5)-Content-Safety
(lines), Nemotron-Content-Safety-Reasoning-4B (harm lines), Qwen3Guard-Gen, Granite Guardian, Llama Guard.
Categories are kept as names, because the numbers S1 to S23 have different meanings in different models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hybridserve.guards.base import GuardError, Stage
from hybridserve.settings.guard import GuardFormat

LLAMA_GUARD_CATEGORIES = {
    "S1": "Violent Crimes",
    "S2": "Non-Violent Crimes",
    "S3": "Sex-Related Crimes",
    "S4": "Child Sexual Exploitation",
    "S5": "Defamation",
    "S6": "Specialized Advice",
    "S7": "Privacy",
    "S8": "Intellectual Property",
    "S9": "Indiscriminate Weapons",
    "S10": "Hate",
    "S11": "Suicide & Self-Harm",
    "S12": "Sexual Content",
    "S13": "Elections",
    "S14": "Code Interpreter Abuse",
}


@dataclass(frozen=True, slots=True)
class ParsedVerdict:
    """The content of a verdict. `controversial` is Qwen3Guard's middle level."""

    unsafe: bool
    categories: tuple[str, ...] = ()
    controversial: bool = False


Parser = Callable[[str, Stage], ParsedVerdict]


def nemotron_safety_guard(text: str, stage: Stage) -> ParsedVerdict:
    """``{"User Safety": "safe", "Response Safety": "unsafe", "Safety Categories": "Violence"}``."""
    try:
        answer = json.loads(text, object_pairs_hook=_no_duplicates)
    except ValueError:
        raise GuardError("the verdict is not one JSON object") from None
    if not isinstance(answer, dict):
        raise GuardError("the verdict is not one JSON object")
    unknown = set(answer) - {"User Safety", "Response Safety", "Safety Categories"}
    if unknown:
        raise GuardError("the verdict has unknown fields")
    categories = answer.get("Safety Categories", "")
    if not isinstance(categories, str):
        raise GuardError("Safety Categories is not a string")
    return _two_sided(answer, stage, "User Safety", "Response Safety", "unsafe", "safe", _names(categories))


def nemotron_content_safety(text: str, stage: Stage) -> ParsedVerdict:
    """Lines ``User Safety: safe``, ``Response Safety: unsafe``, ``Safety Categories: Violence``."""
    fields = _lines(_without_thinking(text), ("User Safety", "Response Safety", "Safety Categories"))
    names = _names(fields.get("Safety Categories", ""))
    return _two_sided(fields, stage, "User Safety", "Response Safety", "unsafe", "safe", names)


def nemotron_reasoning(text: str, stage: Stage) -> ParsedVerdict:
    """Lines ``Prompt harm: unharmful``, ``Response harm: harmful``."""
    fields = _lines(_without_thinking(text), ("Prompt harm", "Response harm"))
    return _two_sided(fields, stage, "Prompt harm", "Response harm", "harmful", "unharmful", ())


def qwen3guard(text: str, stage: Stage) -> ParsedVerdict:
    """Lines ``Safety: Unsafe``, ``Categories: Violent``, and for answers ``Refusal: No``."""
    fields = _lines(_without_thinking(text), ("Safety", "Categories", "Refusal"))
    level = fields.get("Safety")
    if level not in ("Safe", "Unsafe", "Controversial"):
        raise GuardError("Safety is none of Safe, Unsafe, Controversial")
    if "Categories" not in fields:
        raise GuardError("the verdict has no Categories")
    if stage == "output" and fields.get("Refusal") not in ("Yes", "No"):
        raise GuardError("Refusal is neither Yes nor No")
    return ParsedVerdict(level == "Unsafe", _names(fields["Categories"]), level == "Controversial")


def granite_guardian(text: str, _stage: Stage) -> ParsedVerdict:
    """``<score> yes </score>``: yes means that the content has the risk."""
    match = re.fullmatch(r"<score>\s*(yes|no)\s*</score>", _without_thinking(text))
    if match is None:
        raise GuardError("the verdict is not a <score> of yes or no")
    return ParsedVerdict(match[1] == "yes")


def llama_guard(text: str, _stage: Stage) -> ParsedVerdict:
    r"""``safe``, or ``unsafe`` and a line of codes, as ``unsafe\nS1,S10``."""
    lines = text.strip().splitlines()
    if lines == ["safe"]:
        return ParsedVerdict(False)
    if len(lines) == 2 and lines[0].strip() == "unsafe":
        codes = [code.strip() for code in lines[1].split(",")]
        if codes and all(re.fullmatch(r"S\d{1,2}", code) for code in codes):
            return ParsedVerdict(True, tuple(LLAMA_GUARD_CATEGORIES.get(code, code) for code in codes))
    raise GuardError("the verdict is neither safe nor unsafe with codes")


PARSERS: dict[GuardFormat, Parser] = {
    "nemotron_safety_guard": nemotron_safety_guard,
    "nemotron_content_safety": nemotron_content_safety,
    "nemotron_reasoning": nemotron_reasoning,
    "qwen3guard": qwen3guard,
    "granite_guardian": granite_guardian,
    "llama_guard": llama_guard,
}


def _two_sided(
    fields: dict[str, Any], stage: Stage, prompt: str, response: str, bad: str, good: str, names: tuple[str, ...]
) -> ParsedVerdict:
    """A verdict on the prompt and one on the answer; that of the stage is required and decides."""
    decisive = prompt if stage == "input" else response
    for name in (prompt, response):
        if name in fields and fields[name] not in (bad, good):
            raise GuardError(f"{name} is neither {bad} nor {good}")
    if decisive not in fields:
        raise GuardError(f"the verdict has no {decisive}")
    # In stage output the prompt was judged before, and policy may have allowed it.
    return ParsedVerdict(fields[decisive] == bad, names)


def _lines(text: str, known: tuple[str, ...]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        name = name.strip()
        if not colon or name not in known:
            raise GuardError("the verdict has a line without a known field")
        if name in fields:
            raise GuardError(f"{name} occurs twice")
        fields[name] = value.strip()
    return fields


def _without_thinking(text: str) -> str:
    text = text.strip()
    if text.startswith("<think>"):
        _, end, rest = text.partition("</think>")
        if not end:
            raise GuardError("the guard's reasoning does not end")
        text = rest.strip()
    if "<think>" in text or "</think>" in text:
        raise GuardError("the guard's reasoning is not at the beginning")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()) and name != "None")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a field occurs twice")
    return result
