"""Units of memory, and the sizes of number types."""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of one number of each type that weights and caches may have."""


def format_gib(count: float) -> str:
    """Bytes as GiB with two decimals, such as ``1.50 GiB``."""
    return f"{count / GIB:.2f} GiB"


def counted(count: int, noun: str) -> str:
    """A count with its noun: ``1 request``, ``1,024 requests``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
