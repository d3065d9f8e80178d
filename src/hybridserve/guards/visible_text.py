"""Text without characters that a reader does not see and a model still gets."""

from __future__ import annotations

import re

# Default_Ignorable_Code_Point of Unicode 16, DerivedCoreProperties.txt, read 2026-11-26; with surrogates, the marks of
# interlinear annotations (U+FFF9 to U+FFFB), and the control characters that are not white space.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ud800-\udfff\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]"
)
# Tag characters repeat ASCII invisibly, and models read them.
_TAGS = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)}
_TAG = re.compile("[\U000e0020-\U000e007e]")
# A character by its number, as JSON, JavaScript and Python write it; and the escapes of JSON strings, in which tool
# calls carry their arguments.
_NUMBER = r"\\(?:u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8}))"
_NUMBER_ESCAPE = re.compile(_NUMBER)
_ANY_ESCAPE = re.compile(_NUMBER + r'|\\([nrtbf"/\\])')
_LETTER = 5  # the group of a letter
_CONTROL = {"n": "\n", "r": "\n", "t": "\t", "b": "", "f": "\n"}
_SURROGATE = re.compile("[\ud800-\udfff]")


def without_invisible(text: str) -> str:
    """The text without default-ignorable and control characters, and without halves of characters."""
    return text if text.isprintable() and text.isascii() else _INVISIBLE.sub("", text)


def with_invisible_as_spaces(text: str) -> str:
    """The text with such characters as spaces, as which a model may read them; the same object if it has none."""
    return text if text.isprintable() and text.isascii() else _INVISIBLE.sub(" ", text)


def with_escapes_decoded(text: str) -> str:
    """The text with numbers of characters (``\\u0070``, ``\\x70``) decoded, as the engine does in tool calls."""
    return _with(_NUMBER_ESCAPE, text) if "\\" in text else text


def with_all_escapes_decoded(text: str) -> str:
    """The text with all escapes of JSON strings decoded."""
    return _with(_ANY_ESCAPE, text)


def _with(pattern: re.Pattern[str], text: str) -> str:
    decoded = pattern.sub(_unescaped, text)
    if not _SURROGATE.search(decoded):
        return decoded
    # JSON writes a character beyond U+FFFF as two.
    return decoded.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


def _unescaped(match: re.Match[str]) -> str:
    value = match[match.lastindex or 0]
    if match.lastindex == _LETTER:
        return _CONTROL.get(value, value)
    return chr(code) if (code := int(value, 16)) < 0x110000 else match[0]


def with_tags_decoded(text: str) -> str:
    """The text with tag characters as the ASCII that they repeat; the same object if it has none."""
    return text.translate(_TAGS) if not text.isascii() and _TAG.search(text) else text
