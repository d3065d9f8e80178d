"""A guard of regular expressions, which needs no model and takes microseconds: for demo, tests and local policies."""

from __future__ import annotations

import asyncio
import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, ValidationError

from hybridserve import yamlio
from hybridserve.errors import ConfigError
from hybridserve.guards.base import GuardVerdict, Message, Stage
from hybridserve.guards.look_alikes import plain_letters
from hybridserve.guards.visible_text import (
    with_all_escapes_decoded,
    with_invisible_as_spaces,
    with_tags_decoded,
    without_invisible,
)
from hybridserve.validation import from_validation

DEFAULT_FILE = Path(__file__).with_name("patterns.yaml")

# A group that is referenced has another number once patterns are joined.
_BACKREFERENCE = re.compile(r"\\[1-9]|\(\?P=|\(\?\(")
_PERCENT = re.compile("%[0-9a-fA-F]{2}")
# A long text is matched in slices of this many characters, so that other requests go on meanwhile. They overlap, and a
# pattern finds what is at most as long as the overlap.
_SLICE, _OVERLAP = 8192, 1024
# Marks on one character; text has a few, and NFKC takes quadratic time for many. For a short text that is little.
_MOST_MARKS, _SHORT = 30, 512
# Encoded text may be encoded again.
_MOST_DECODINGS = 3


class PatternRule(BaseModel):
    """One category and its patterns: Python regular expressions, matched against folded text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    category: str
    patterns: tuple[str, ...]
    stages: tuple[Stage, ...] = ("input", "output")


class PatternFile(BaseModel):
    """The content of `guard.rules_file`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: tuple[PatternRule, ...]


@dataclass(frozen=True, slots=True)
class _Category:
    name: str
    patterns: tuple[re.Pattern[str], ...]

    def matches(self, texts: Sequence[str]) -> bool:
        return any(pattern.search(text) for pattern in self.patterns for text in texts)


class PatternGuard:
    """Blocks text that matches a pattern.

    Raises:
        ConfigError: the file is missing or malformed, or a pattern does not compile.
    """

    name = "rules"
    is_local = True

    def __init__(self, file: Path | None = None) -> None:
        file = file or DEFAULT_FILE
        where = f"guard.rules_file {file}"
        try:
            rules = PatternFile.model_validate(yamlio.read(file, where)).rules
        except ValidationError as error:
            raise from_validation(error, where) from None
        self._categories: dict[Stage, list[_Category]] = {"input": [], "output": []}
        for rule in rules:
            try:
                patterns = tuple(re.compile(pattern) for pattern in rule.patterns)
            except re.error as error:
                raise ConfigError(where, f"pattern of {rule.category}: {error}", "correct the pattern") from None
            for stage in rule.stages:
                self._categories[stage].append(_Category(rule.category, patterns))
        self._joined = {stage: _join(categories) for stage, categories in self._categories.items()}

    async def check(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        joined, size = self._joined[stage], 0
        found: set[str] = set()
        # Only the answer is judged in stage output: its prompt was judged on input.
        for message in messages[-1:] if stage == "output" else messages:
            text = message["content"]
            for begin in range(0, max(1, len(text) - _OVERLAP), _SLICE - _OVERLAP):
                part = text[begin : begin + _SLICE]
                size += len(part)
                if size > _SLICE:
                    size = len(part)
                    await asyncio.sleep(0)
                texts = matched_texts(part)
                if joined is None or any(joined.search(text) for text in texts):
                    found |= {category.name for category in self._categories[stage] if category.matches(texts)}
        if not found:
            return GuardVerdict("allow", self.name)
        categories = tuple(category.name for category in self._categories[stage] if category.name in found)
        return GuardVerdict("block", self.name, categories)

    async def probe(self) -> None:
        return

    async def close(self) -> None:
        return


def _join(categories: Sequence[_Category]) -> re.Pattern[str] | None:
    """One pattern that matches where any of them does; None where they cannot be joined.

    It is four times as fast as searching one after another, because Python's compiler shares common prefixes.
    """
    patterns = [pattern.pattern for category in categories for pattern in category.patterns]
    if any(_BACKREFERENCE.search(pattern) for pattern in patterns):
        return None
    try:
        return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    except re.error:  # two groups with the same name, or flags inside a pattern
        return None


def matched_texts(text: str) -> list[str]:
    """The text as patterns match it, folded, in every way in which a model or its reader may read it.

    Escapes, HTML entities, percent codes and tag characters are also decoded, invisible characters are removed or taken
    for spaces, and letters are also matched without marks and as the Latin letters that they look like.
    """
    plain = text.isascii() and text.isprintable()
    if plain and "\\" not in text and "&" not in text and "%" not in text:  # nearly all
        return [fold(text)]
    variants = [text]
    for _ in range(_MOST_DECODINGS):
        if (decoded := _decoded(variants[-1])) == variants[-1]:
            break
        variants.append(decoded)
    variants += [spaced for text in variants if (spaced := with_invisible_as_spaces(text)) != text]
    folded = [fold(variant) for variant in variants]
    folded += [_lower(plain_letters(variant)) for variant in variants if not variant.isascii()]
    return list(dict.fromkeys(folded))


def _decoded(text: str) -> str:
    """The text with one layer of escapes, entities, percent codes and tag characters decoded."""
    text = with_tags_decoded(text)
    if "\\" in text:
        text = with_all_escapes_decoded(text)
    if "&" in text:
        text = html.unescape(text)
    return unquote(text) if "%" in text and _PERCENT.search(text) else text


def fold(text: str) -> str:
    """Normalize text for matching: NFKC, without invisible characters, case-folded, single spaces."""
    if not text.isascii():
        # Twice: NFKC turns some characters into invisible ones, and finds compositions that invisible ones prevented.
        text = without_invisible(text)
        if len(text) > _SHORT:
            text = _surplus_marks().sub(r"\1", text)
        text = unicodedata.normalize("NFKC", text)
    return _lower(without_invisible(text))


def _lower(text: str) -> str:
    return " ".join(text.casefold().split())


@cache
def _surplus_marks() -> re.Pattern[str]:
    """More marks in a row than text has: characters that NFKD turns into combining ones only."""
    decompose, combines = unicodedata.decomposition, unicodedata.combining
    letters = [c for c in map(chr, range(0x300, 0x20000)) if combines(c) or decompose(c)]
    one = "".join(c for c in letters if all(map(combines, unicodedata.normalize("NFKD", c))))
    return re.compile(f"([{one}]{{{_MOST_MARKS}}})[{one}]+")
