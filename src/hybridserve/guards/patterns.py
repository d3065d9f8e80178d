"""A guard of patterns: no model, a few microseconds. For the demo, for tests, and for house rules."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from pydantic import BaseModel, ConfigDict, ValidationError

from hybridserve import yamlio
from hybridserve.errors import ConfigError, from_validation
from hybridserve.guards.base import GuardVerdict, Message, Stage

OWN_RULES = Path(__file__).with_name("patterns.yaml")

# A group that is referred to has another number among other patterns.
_REFERS = re.compile(r"\\[1-9]|\(\?P=|\(\?\(")
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
    patterns: tuple[re.Pattern[str], ...]


class PatternGuard:
    """Blocks text that matches a pattern.

    Raises:
        ConfigError: the file is missing, malformed, or holds a pattern that does not compile.
    """

    name = "rules"
    instant = True

    def __init__(self, file: Path | None = None) -> None:
        file = file or OWN_RULES
        where = f"guard.rules_file {file}"
        try:
            rules = RuleFile.model_validate(yamlio.read(file, where)).rules
        except ValidationError as error:
            raise from_validation(error, where) from None
        self._rules: dict[Stage, list[_Compiled]] = {"input": [], "output": []}
        for rule in rules:
            try:
                patterns = tuple(re.compile(one) for one in rule.patterns)
            except re.error as error:
                raise ConfigError(where, f"pattern of {rule.category}: {error}", "repair the pattern") from None
            for stage in rule.stages:
                self._rules[stage].append(_Compiled(rule.category, patterns))
        self._sieves = {stage: _sieve(rules) for stage, rules in self._rules.items()}

    async def check(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        start = perf_counter()
        # An answer is judged by itself: its prompt was judged when it came in.
        judged = messages[-1:] if stage == "output" else messages
        texts = [fold(message["content"]) for message in judged]
        sieve = self._sieves[stage]
        found: tuple[str, ...] = ()
        if sieve is None or any(sieve.search(text) for text in texts):
            found = tuple(rule.category for rule in self._rules[stage] if _matches(rule, texts))
        return GuardVerdict("block" if found else "allow", self.name, found, seconds=perf_counter() - start)

    async def probe(self) -> None:
        return

    async def close(self) -> None:
        return


def _sieve(rules: Sequence[_Compiled]) -> re.Pattern[str] | None:
    """All patterns as one: where it finds nothing none of them does. Four times as fast as one after another, since
    Python's compiler puts common beginnings together. None where patterns cannot stand beside others."""
    patterns = [pattern.pattern for rule in rules for pattern in rule.patterns]
    if any(_REFERS.search(pattern) for pattern in patterns):
        return None
    try:
        return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    except re.error:  # two groups of one name, flags of their own
        return None


def _matches(rule: _Compiled, texts: Sequence[str]) -> bool:
    return any(pattern.search(text) for pattern in rule.patterns for text in texts)


def fold(text: str) -> str:
    """Text as patterns see it: compatible forms unified, invisible characters gone, one case, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_INVISIBLE)
    return " ".join(text.casefold().split())
