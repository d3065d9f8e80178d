"""Write the table of docs/evidence/containers.md from the measurements of `make test-compose`.

Run ``python scripts/container_figures.py .cache/docker/figures.json docs/evidence/containers.md``. The block between
the two markers is replaced.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->"


def table(figures: dict[str, tuple[float, str]]) -> str:
    """Name, value and unit in Markdown, in the order of measurement."""
    lines = [f"| {name} | {value:g} {unit} |" for name, (value, unit) in figures.items()]
    return "\n".join(["| what | measured |", "|---|---|", *lines]) + "\n"


def main() -> None:
    """Replace the block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    page = options.page.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    figures = json.loads(options.figures.read_text(encoding="utf-8"))
    options.page.write_text(f"{before}{BEGIN}{table(figures)}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
