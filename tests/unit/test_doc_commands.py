"""Every shell block of the README, of getting started and of the how-to pages works after the page's install step."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.doc_blocks import shell_blocks
from support.doc_commands import RUN
from support.loadtest_mock import mock_server

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "tests" / "support" / "doc_commands.py"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/getting-started/*.md")), *sorted(ROOT.glob("docs/how-to/*.md"))]
# A how-to page starts after `make install`; the others name their install step.
INSTALLED = {"how-to": "cpu"}


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    with mock_server("--first", "0.02", "--gap", "0.002") as url:
        yield url


@pytest.fixture(scope="module")
def hidden() -> dict[str, list[str]]:
    """For each lock, the modules that are installed here and that it does not install."""
    modules = packages_distributions()

    def pinned(*locks: str) -> set[str]:
        texts = [(ROOT / "requirements" / f"{lock}.txt").read_text() for lock in locks]
        return {
            re.sub(r"[-_.]+", "-", name).lower() for text in texts for name in re.findall(r"^([^=\s]+)==", text, re.M)
        }

    everything = pinned("dev")

    def missing(*locks: str) -> list[str]:
        left = everything - pinned(*locks)
        names = {
            module: {re.sub(r"[-_.]+", "-", name).lower() for name in owners} for module, owners in modules.items()
        }
        return [module for module, owners in names.items() if owners & everything and owners <= left | {"vllm"}]

    return {"base": missing("base", "tools"), "cpu": missing("cpu", "tools"), "gpu": [], "dev": []}


def clone(folder: Path) -> None:
    """A work tree whose files are links, with the commands of `doc_commands.py` before all others."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in {line.partition("/")[0] for line in listed.splitlines()}:
        (folder / name).symlink_to(ROOT / name)
    for name in RUN:
        for path in (folder / part / "bin" / name for part in ("", ".venv", "env")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{DRIVER}" {name} "$@"\n')
            path.chmod(0o755)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_work_in_their_order(page: Path, tmp_path: Path, mock: str, hidden: dict[str, list[str]]) -> None:
    clone(tmp_path)
    installed = tmp_path / "state.json"
    installed.write_text(json.dumps({"lock": INSTALLED.get(page.parent.name)}))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HYBRIDSERVE_", "LOADTEST_"))},
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'scripts'}",
        "HOME": str(tmp_path),
        "EDITOR": "true",
        "DOC_STATE": str(installed),
        "DOC_HIDDEN": json.dumps(hidden),
        "DOC_MOCK": mock,
        "DOC_VLLM": str(Path(str(find_spec("vllm").origin)).parent),  # type: ignore[union-attr]
    }

    def run(script: str, needs: frozenset[str] = frozenset()) -> subprocess.CompletedProcess[str]:
        script = script.replace("/var/lib/", f"{tmp_path}/var/lib/")
        words = ["bash", "-e", "-u", "-o", "pipefail", "-c", script]
        given = {**environment, "DOC_NEEDS": " ".join(needs)}
        return subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=120)

    (tmp_path / ".venv" / "bin" / "activate").touch()
    text = page.read_text(encoding="utf-8")
    if page.parent.name == "how-to" and "hybridserve init" in text:  # the page says where its settings file is from
        assert run("hybridserve init nemotron-nano-9b-v2 --gpu l40s").returncode == 0
    for block in shell_blocks(page):
        for name in block.given:
            if name.startswith("$"):
                environment[name[1:]] = "given"
                continue
            if name == "hybridserve.yaml":
                assert run("hybridserve init nemotron-nano-9b-v2 --gpu l40s").returncode == 0
                continue
            source = ROOT / "tests/stack/trace.csv" if name.endswith(".csv") else ROOT / "LICENSE"
            shutil.copy(source, tmp_path / name)
        done = run(block.script, block.needs)
        assert done.returncode == 0, f"{page.name}:{block.line}\n{block.script}\n{done.stdout[-1000:]}{done.stderr}"
