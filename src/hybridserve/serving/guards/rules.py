"""A guard of patterns: no model, a few microseconds. For the demo, for tests, and for house rules."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hybridserve.errors import ConfigError
from hybridserve.serving.guards.interface import Message, Stage, Verdict

OWN_RULES = Path(__file__).with_name("rules.yaml")

# Zero-width characters and soft hyphens split a word for a pattern but not for a reader.
_INVISIBLE = dict.fromkeys([0x00AD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF])


class Rule(BaseModel):
    """One category and the patterns that mean it. Patterns are Python regular expressions on folded text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    category: str
    patterns: tuple[str, ...]
    stages: tuple[Stage, ...] = ("input", "output")


class RuleFile(BaseModel):
    """A file of rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class _Compiled:
    category: str
    pattern: re.Pattern[str]


class RulesGuard:
    """Blocks text that matches a pattern.

    Raises:
        ConfigError: the file is missing, malformed, or holds a pattern that does not compile.
    """

    name = "rules"

    def __init__(self, file: Path | None = None) -> None:
        file = file or OWN_RULES
        where = f"guard.rules_file {file}"
        try:
            rules = RuleFile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))).rules
        except (OSError, yaml.YAMLError, ValidationError) as error:
            raise ConfigError(where, f"cannot be used: {' '.join(str(error).split())[:200]}", "repair it") from None
        self._rules: dict[Stage, list[_Compiled]] = {"input": [], "output": []}
        for rule in rules:
            try:
                pattern = re.compile("|".join(f"(?:{one})" for one in rule.patterns))
            except re.error as error:
                raise ConfigError(where, f"pattern of {rule.category}: {error}", "repair the pattern") from None
            for stage in rule.stages:
                self._rules[stage].append(_Compiled(rule.category, pattern))

    async def check(self, messages: Sequence[Message], stage: Stage) -> Verdict:
        start = perf_counter()
        # An answer is judged by itself: its prompt was judged when it came in.
        judged = messages[-1:] if stage == "output" else messages
        texts = [fold(message["content"]) for message in judged]
        found = tuple(rule.category for rule in self._rules[stage] if any(rule.pattern.search(text) for text in texts))
        return Verdict("block" if found else "allow", self.name, found, seconds=perf_counter() - start)

    async def probe(self) -> None:
        return

    async def close(self) -> None:
        return


def fold(text: str) -> str:
    """Text as patterns see it: compatible forms unified, invisible characters gone, one case, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_INVISIBLE)
    return " ".join(text.casefold().split())
