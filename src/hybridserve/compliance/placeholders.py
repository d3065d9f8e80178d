"""Values of examples and templates that a person has not replaced."""

from __future__ import annotations

import re

# As the whole text, in any spelling: who signs an acceptance or a waiver, and why.
_NOBODY = frozenset(
    {"name", "full name", "first last", "firstname lastname", "first name last name", "name surname", "name here",
     "insert name", "insert name here", "replace with name", "jane doe", "john doe", "max mustermann", "me", "someone",
     "somebody", "nobody", "none", "unknown", "n a", "n n", "todo", "tbd", "tbc", "fixme", "xxx", "placeholder"}
)  # fmt: skip
# Anywhere in the text. TODO only in capitals, since todo is a word of Spanish, and not as the name of a ticket. An
# address at a domain of RFC 2606. A name in angle brackets, which is neither a mail address nor a comparison.
_MARK = re.compile(
    r"\b(?:TODO|TBD|FIXME|XXX+)\b(?!-\d)"
    r"|(?i:\byour[ _-](?:full[ _-])?name\b|\b(?:change[ _-]?me|replace[ _-]?me|lorem ipsum)\b)"
    r"|(?i:@(?:[\w-]+\.)*example(?:\.(?:com|org|net|edu))?\b)"
    r"|<[A-Za-z_][\w.-]*(?: [\w.-]+)*>|\$\{|\{\{"
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
