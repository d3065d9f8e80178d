"""The installer, and what the locks must have in common."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = runpy.run_path(str(ROOT / "scripts" / "install.py"))


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines)  # type: ignore[misc]


@pytest.mark.parametrize("name", ["base", "tools", "cpu"])
def test_locks_for_cpus_agree(name: str) -> None:
    assert pins(name).items() <= pins("dev").items()
    assert pins("base").keys() <= pins(name).keys()


def test_lock_for_gpus_has_torch_for_cuda() -> None:
    found = pins("gpu")
    assert "+cpu" not in found["torch"]
    assert "nvidia-cudnn-cu13" in found
    assert pins("tools").keys() <= found.keys()


def test_every_environment_has_the_tools_and_images_have_not() -> None:
    pinned = INSTALL["pinned"]
    for name in ("base", "cpu"):
        packages = {line.partition("==")[0] for line in pinned(name, tools=True)}
        assert {"locust", "matplotlib", "grafana-foundation-sdk"} <= packages
        assert len(packages) == len(pinned(name, tools=True)), "one version of each"
        assert pinned(name, tools=False) == (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0)])
def test_other_versions_of_python_are_refused(version: tuple[int, int, int]) -> None:
    code = (
        f"import runpy, sys; sys.version_info = {version}; sys.argv = ['install.py', 'base']\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'install.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "3.11, 3.12 and 3.13" in done.stderr


def test_versions_of_python_are_the_same_everywhere() -> None:
    supported = runpy.run_path(str(ROOT / "scripts" / "lock.py"))["PYTHONS"]
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    from hybridserve.cli.doctor import PYTHONS

    assert supported == classifiers == [f"{major}.{minor}" for major, minor in PYTHONS]
    for page in ("README.md", "docs/getting-started/install.md"):
        assert "Python 3.11, 3.12 or 3.13" in (ROOT / page).read_text()


def test_images_are_built_in_the_environment_that_is_there(tmp_path: Path) -> None:
    """Their script needs a YAML library; the development lock would be gigabytes for it."""

    def commands() -> str:
        words = ["make", "-n", "-f", str(ROOT / "Makefile"), "images", "REGISTRY=registry.example/team"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "scripts/install.py base\n" in commands()
    program = tmp_path / ".venv" / "bin" / "hybridserve"
    program.parent.mkdir(parents=True)
    program.touch()
    assert "install.py" not in commands()
    assert 'scripts/release.py images --registry "registry.example/team"' in commands()
