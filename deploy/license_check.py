#!/usr/bin/env python3
"""Check that an image with weights meets the duties of their license: one line per open duty, exit code 0 or 1.

Only license rules are checked. Guard, keys and the image digest are checked where the image is started; its digest is
not known before it is built.
"""

import json
import subprocess
import sys


def main(arguments: list[str]) -> int:
    """Run `hybridserve check` with these arguments; returns the exit code."""
    run = subprocess.run(["hybridserve", "check", "--json", *arguments], capture_output=True, text=True)
    try:
        findings = json.loads(run.stdout)["findings"]
        duties = [row for row in findings if row["family"] == "license" and row["severity"] == "error"]
    except (ValueError, KeyError):
        print(f"license check: {(run.stdout + run.stderr).strip()[-400:]}", file=sys.stderr)
        return 2
    missing = [row for row in duties if row["status"] not in ("PASS", "WAIVED")]
    for row in missing:
        print(f"license check: {row['rule']}: {row['subject']}: {row['evidence']}; {row['remedy']}", file=sys.stderr)
    print(f"license check: {len(duties)} duties, {len(missing)} not met")
    return 1 if missing or not duties else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
