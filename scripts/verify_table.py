"""Write the tables of docs/evidence/verify.md from the runs that `make test-verify` has made.

Run ``python scripts/verify_table.py rows.jsonl docs/evidence/verify.md``: the block between the markers is replaced.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- runs -->\n", "<!-- end of runs -->"


def tables(rows: list[dict[str, Any]]) -> str:
    """Faults with the conditions that found them, and the clean runs."""
    faults = [row for row in rows if row["kind"] == "fault"]
    clean = [row for row in rows if row["kind"] == "clean"]
    lines = [
        f"Run on {date.today()}.",
        "",
        "| fault | verdict | conditions that failed | level, single | seconds |",
        "|---|---|---|---|---|",
    ]
    lines += [_fault(row) for row in faults]
    caught = sum(row["verdict"] == "FAIL" for row in faults)
    alarms = [row for row in clean if row["verdict"] != "PASS"]
    slowest = max((row["seconds"] for row in rows), default=0)
    lines += ["", f"{caught} of {len(faults)} runs with a fault were caught. Clean runs: {len(clean)}, false alarms: "
              f"{len(alarms)}. The slowest run took {slowest:g} s."]  # fmt: skip
    preempted = sum(_note(row).split()[0] not in ("0", "") for row in clean if _note(row))
    lines += [f"In {preempted} of the clean runs requests were preempted."]
    return "\n".join(lines) + "\n"


def _fault(row: dict[str, Any]) -> str:
    failed = [one["condition"] for one in row["conditions"] if one["verdict"] == "FAIL"]
    single = next(one for one in row["conditions"] if one["condition"] == "single")
    level = f"{single['level']:.4f} (limit {single['level_limit']:.4f})"
    return f"| {row['name']} | {row['verdict']} | {', '.join(failed) or '-'} | {level} | {row['seconds']:g} |"


def _note(row: dict[str, Any]) -> str:
    return str(next((one["note"] for one in row["conditions"] if one["condition"] == "preempted"), ""))


def main() -> None:
    """Replace the block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    text = options.page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    options.page.write_text(before + BEGIN + tables(rows) + END + after)


if __name__ == "__main__":
    main()
