"""Write the table of docs/evidence/faults.md from the rows that `make test-faults` has measured.

Run ``python scripts/fault_table.py rows.jsonl docs/evidence/faults.md``: the block between the two markers is replaced.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- faults -->\n", "<!-- end of faults -->"
# Field of a row (tests/faults/fault_run.py `Row`): heading.
COLUMNS = {
    "fault": "fault",
    "requests": "requests",
    "finished": "finished",
    "error_returned": "error returned",
    "connection_broken": "connection broken",
    "ended_without_done": "ended without DONE",
    "in_flight": "in flight",
    "first_failure_s": "first failure, s",
    "last_failure_s": "last failure, s",
    "recovered_s": "recovered, s",
    "metric": "metric after",
    "alert": "alert condition true after",
}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown; of several runs of one fault the last counts."""
    last = {row["fault"]: row for row in rows}
    cells = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    cells += [["-" if row[field] is None else str(row[field]) for field in COLUMNS] for row in last.values()]
    return "".join("| " + " | ".join(line) + " |\n" for line in cells)


def main() -> None:
    """Replace the block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    page = options.page.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    options.page.write_text(f"{before}{BEGIN}{table(rows)}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
