"""What the chart holds of things that stand elsewhere is what stands there: `make chart-files` writes it."""

from __future__ import annotations

import subprocess
import sys

from chart_helm import ROOT


def test_made_files_are_up_to_date() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "scripts" / "chart_files.py", "--check"], capture_output=True, text=True
    )
    assert ran.returncode == 0, f"run `make chart-files`:\n{ran.stdout}{ran.stderr}"
