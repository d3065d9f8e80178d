"""The documentation site builds: links, anchors and contents are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_site_has_no_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-c", "docs", "-b", "dummy", "-W", "--keep-going", "-q", "-d", tmp_path]
    done = subprocess.run([*command, ".", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_evidence_has_a_date_and_a_command() -> None:
    pages = {page.name: page.read_text(encoding="utf-8") for page in ROOT.glob("docs/evidence/**/*.md")}
    pages = {name: text for name, text in pages.items() if "<!-- runs -->\n<!-- end" not in text}  # not run yet
    dated = {name for name, text in pages.items() if re.search(r"\b20\d\d-\d\d-\d\d\b", text)}
    repeatable = {
        name for name, text in pages.items() if re.search(r"`(make|pytest|hybridserve) |`(tests|benchmarks)/", text)
    }
    assert set(pages) == dated == repeatable


def test_contributing_describes_every_package() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "src/hybridserve").glob("*/__init__.py")}
    assert {name for name in packages if f"`{name}`" not in page or f"  {name} " not in page} == set()
