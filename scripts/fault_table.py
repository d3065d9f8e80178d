"""Write the table of docs/evidence/faults.md from the rows that `make test-faults` has measured.

Run ``python scripts/fault_table.py rows.jsonl docs/evidence/faults.md``: the block between the two markers is replaced.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- faults -->\n", "<!-- end of faults -->"
HEAD = [
    "| fault | requests | finished | told | cut | lost | in flight | first failure, s | last, s | all back, s "
    "| metric after | alert rule holds after |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
]
FIELDS = (
    "fault",
    "requests",
    "finished",
    "told",
    "cut",
    "silent",
    "in_flight",
    "first_failure_s",
    "last_failure_s",
    "all_back_s",
    "metric",
    "alert",
)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown; of several runs of one fault the last counts."""
    last = {row["fault"]: row for row in rows}
    lines = ["| " + " | ".join("-" if row[f] is None else str(row[f]) for f in FIELDS) + " |" for row in last.values()]
    return "\n".join([*HEAD, *lines]) + "\n"


def main() -> None:
    """Replace the block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("page", type=Path)
    asked = parser.parse_args()
    rows = [json.loads(line) for line in asked.rows.read_text(encoding="utf-8").splitlines()]
    page = asked.page.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    asked.page.write_text(f"{before}{BEGIN}{table(rows)}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
