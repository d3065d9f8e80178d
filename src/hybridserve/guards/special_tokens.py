"""Special tokens of chat templates: how they look, and how they are made harmless in text.

A template marks turns with tokens such as ``<|im_end|>``. The tokenizer reads the same characters in a user's text as
that token, so a text could end its own turn and forge others: of the served model, or of a guard model that judges it.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

JOINER = "\u2060"
"""A word joiner: invisible, and it breaks a tokenizer's special token and a template's substring test."""

# Forms of the families that we serve or use as guards: ChatML, Llama 3, Granite, Falcon and LFM2; DeepSeek; Nemotron
# Nano; Gemma; Mistral and Llama 2. Ordinary text does not contain them.
_FORMS = (
    r"<\|[^\s<>|]{1,64}\|>",
    r"<\uff5c[^\s<>\uff5c]{1,64}\uff5c>",
    r"<SPECIAL_\d{1,4}>",
    r"<(?:start|end)_of_turn>",
    r"\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\]",
    r"<</?SYS>>",
    # Not special, but templates put calls and results of tools between them.
    r"</?(?:TOOLCALL|TOOL_RESPONSE|AVAILABLE_TOOLS|tool_calls?|tool_response)>",
)
_MARKUP = re.compile(r"<\S+>|\[\S+\]")
# The same in letters that NFKC turns into ASCII; a tokenizer may normalize before it looks for its tokens.
_OPEN, _CLOSE = "<\uff1c\ufe64\u226e\\[\uff3b\ufe47", ">\uff1e\ufe65\u226f\\]\uff3d\ufe48"
_WIDE = re.compile(rf"[{_OPEN}]{{1,2}}[^\s{_OPEN}{_CLOSE}]{{1,66}}[{_CLOSE}]{{1,2}}")


@cache
def token_pattern(words: tuple[str, ...] = (), forms: bool = True) -> re.Pattern[str]:
    """A pattern for these words and, with `forms`, everything that has the form of a special token."""
    literal = (re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile("|".join([*literal, *(_FORMS if forms else ())]) or r"(?!)")


def escape(text: str, pattern: re.Pattern[str]) -> str:
    """The text with a word joiner behind the first character of every match; what a reader sees stays the same."""
    # Repeated: escaping </think> leaves /think behind its first character.
    while pattern.search(text):
        text = pattern.sub(_broken, text)
    if text.isascii():
        return text
    return _WIDE.sub(lambda m: _broken(m) if pattern.search(unicodedata.normalize("NFKC", m[0])) else m[0], text)


def _broken(match: re.Match[str]) -> str:
    return match[0][0] + JOINER + match[0][1:]


def special_tokens(tokenizer_config: object, tokenizer: object) -> tuple[str, ...]:
    """Special tokens that these tokenizer files declare, and other added tokens that look like markup.

    Args:
        tokenizer_config: content of ``tokenizer_config.json``.
        tokenizer: content of ``tokenizer.json``, with its ``added_tokens``.
    """
    entries: list[object] = []
    if isinstance(tokenizer_config, dict):
        entries += [value for key, value in tokenizer_config.items() if key.endswith("_token")]
        for field in ("extra_special_tokens", "additional_special_tokens"):
            entries += _as_list(tokenizer_config.get(field))
        entries += _markers(_as_list(tokenizer_config.get("added_tokens_decoder")))
    if isinstance(tokenizer, dict):
        entries += _markers(_as_list(tokenizer.get("added_tokens")))
    texts = (entry.get("content") if isinstance(entry, dict) else entry for entry in entries)
    return tuple(sorted({text for text in texts if isinstance(text, str) and len(text) > 1}))


def _markers(entries: list[object]) -> list[object]:
    """Without added tokens of ordinary text, such as runs of spaces."""
    dicts = (entry for entry in entries if isinstance(entry, dict))
    return [entry for entry in dicts if entry.get("special") or _MARKUP.fullmatch(str(entry.get("content")))]


def _as_list(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
