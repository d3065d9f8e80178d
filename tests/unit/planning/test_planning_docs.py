"""The command output shown in the documentation is what the commands print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = ["docs/how-to/plan-capacity.md", "docs/evidence/throughput-bound.md", "docs/how-to/check-compliance.md"]


def test_documented_output_is_up_to_date() -> None:
    command = [sys.executable, "scripts/docs_output.py", "--check", *PAGES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all("<!-- output: hybridserve" in (ROOT / page).read_text() for page in PAGES)


def test_the_command_of_an_output_is_visible() -> None:
    """The comment before a block is not on the page that a reader sees."""
    for page in PAGES:
        blocks = re.findall(r"<!-- output: ([^\n]+?) -->\n```text\n([^\n]*)\n", (ROOT / page).read_text())
        assert blocks
        assert [f"$ {command.removesuffix(' || true')}" for command, _ in blocks] == [first for _, first in blocks]
