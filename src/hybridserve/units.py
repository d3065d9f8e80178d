"""Units of memory, the sizes of number types, and counts as people write them."""

from __future__ import annotations

import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of one number of each type that weights and caches may have."""

# Not GB: whether a billion bytes or a GiB is meant cannot be known.
_SUFFIXED = re.compile(r"(\d+)([kmg])(ib)?", re.IGNORECASE)
_WITH_UNIT = re.compile(r"(\d+(?:\.\d+)?) ?([mgt])(i?b)", re.IGNORECASE)
_SEPARATED = re.compile(r"\d{1,3}([,_' ]\d{3})+")


def format_gib(count: float) -> str:
    """Bytes as GiB with two decimals, such as ``1.50 GiB``."""
    return f"{count / GIB:.2f} GiB"


def counted(count: int, noun: str) -> str:
    """A count with its noun: ``1 request``, ``1,024 requests``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def written_out(text: str, between: str = "") -> str | None:
    """What to write for whole numbers with suffixes or separators: ``write 65536`` for 64k; None for other text.

    Args:
        between: what separates several numbers, such as ``/``.
    """
    parts = [part.strip() for part in (text.split(between) if between else [text])]
    numbers = [_digits(part) for part in parts]
    if None in numbers or numbers == parts:
        return None
    comma = ", without the comma" if any("," in part for part in parts) else ""
    return f"write {between.join(filter(None, numbers))}{comma}"


def written_in_gib(text: str) -> str | None:
    """What to write in GiB for a size with its unit: ``write 44.7`` for 48GB, ``write 48`` for 48GiB; else None."""
    found = _WITH_UNIT.fullmatch(text)
    if found is None:
        return None
    letter, unit = found[2].upper(), found[3].lower()
    bytes_ = float(found[1]) * (1000 if unit == "b" else KIB) ** ("MGT".index(letter) + 2)
    return f"write {round(bytes_ / GIB, 2):g}"


def _digits(text: str) -> str | None:
    """The digits of a whole number; a suffix is binary, as in ``64k`` and ``3GiB``."""
    if text.isdecimal():
        return text
    if _SEPARATED.fullmatch(text):
        return re.sub(r"\D", "", text)
    if found := _SUFFIXED.fullmatch(text):
        return str(int(found[1]) * {"k": KIB, "m": MIB, "g": GIB}[found[2].lower()])
    return None
