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
_UNICODE_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def without_invisible(text: str) -> str:
    """The text without default-ignorable and control characters, and without halves of characters."""
    return text if text.isprintable() and text.isascii() else _INVISIBLE.sub("", text)


def with_invisible_as_spaces(text: str) -> str:
    """The text with such characters as spaces, as which a model may read them; the same object if it has none."""
    return text if text.isprintable() and text.isascii() else _INVISIBLE.sub(" ", text)


def with_escapes_decoded(text: str) -> str:
    """The text with JSON's escapes of characters (``\\u0070``) decoded, as the engine does in tool calls."""
    return _UNICODE_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text) if "\\u" in text else text


def with_tags_decoded(text: str) -> str:
    """The text with tag characters as the ASCII that they repeat; the same object if it has none."""
    return text.translate(_TAGS) if not text.isascii() and _TAG.search(text) else text
