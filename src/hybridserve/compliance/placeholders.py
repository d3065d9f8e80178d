"""Values of examples and templates that a person has not replaced."""

from __future__ import annotations

import re

# As the whole text, in any spelling: who signs an acceptance or a waiver.
_NOBODY = frozenset(
    {"name", "your name", "full name", "your full name", "first last", "name surname", "jane doe", "john doe",
     "someone", "somebody", "nobody", "none", "unknown", "n a", "todo", "tbd", "fixme", "xxx", "changeme"}
)  # fmt: skip
# Anywhere in the text. TODO only in capitals: todo is a word of Spanish. Domains: RFC 2606.
_MARK = re.compile(
    r"\b(?:TODO|TBD|FIXME|XXX+|YOUR[ _-]NAME)\b|(?i:\b(?:change[ _-]?me|replace[ _-]?me|placeholder|lorem ipsum)\b"
    r"|\bexample\.(?:com|org|net|edu)\b|\.example\b)|<[^<>@]*>|\$\{|\{\{"
)


def is_placeholder(text: str) -> bool:
    """Whether a name or a reason is that of an example: YOUR NAME, TODO, CHANGEME, ops@example.com, <name>.

    A person with an address, Ada Lovelace <ada@acme.io>, is none.
    """
    words = " ".join(re.findall(r"\w+", text.casefold().replace("_", " ")))
    return words in _NOBODY or _MARK.search(text) is not None


def is_placeholder_hash(digest: str) -> bool:
    """Whether the digest of an image is all zeros."""
    return bool(digest) and not digest.strip("0")
