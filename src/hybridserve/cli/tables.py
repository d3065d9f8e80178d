"""Tables as aligned text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import typer


def print_table(rows: Sequence[Sequence[str]], left: Collection[int]) -> None:
    """Print rows of cells, the first in bold; columns in `left` are left-aligned, others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.secho("  ".join(cells).rstrip(), bold=number == 0)
