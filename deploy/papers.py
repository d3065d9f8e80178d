#!/usr/bin/env python3
"""Whether an image with weights carries what their license asks: a line for each duty that is not met, exit 0 or 1.

Only the license's own rules are asked. Guards, keys and the digest of the image are judged where it is started; the
digest is not known before it is built.
"""

import json
import subprocess
import sys


def main(words: list[str]) -> int:
    """Ask `hybridserve check` with these words; returns the exit code."""
    ran = subprocess.run(["hybridserve", "check", "--json", *words], capture_output=True, text=True)
    try:
        answer = json.loads(ran.stdout)
        findings = [one for one in answer["findings"] if one["family"] == "license" and one["severity"] == "error"]
    except (ValueError, KeyError):
        print(f"papers: {(ran.stdout + ran.stderr).strip()[-400:]}", file=sys.stderr)
        return 2
    owed = [one for one in findings if one["status"] not in ("PASS", "WAIVED")]
    for one in owed:
        print(f"papers: {one['rule']}: {one['subject']}: {one['evidence']}; {one['remedy']}", file=sys.stderr)
    print(f"papers: {len(findings)} duties, {len(owed)} not met")
    return 1 if owed or not findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
