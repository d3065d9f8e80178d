"""What the documentation shows is what the commands print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_output_in_the_pages_is_the_commands_own():
    pages = ["docs/how-to/plan-capacity.md", "docs/evidence/throughput-bound.md", "docs/how-to/check-compliance.md"]
    done = subprocess.run(
        [sys.executable, "scripts/docs_output.py", "--check", *pages],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_show_output_at_all():
    assert (ROOT / "docs/how-to/plan-capacity.md").read_text().count("<!-- output: hybridserve") >= 5
