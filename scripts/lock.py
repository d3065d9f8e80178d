#!/usr/bin/env python3
"""Resolve pyproject.toml into requirements/*.txt: `make lock`, after a change of a dependency.

Pins that still satisfy pyproject.toml stay; `scripts/lock.py --upgrade` takes the newest versions.

The locks are for Linux x86-64, resolved for CPython 3.11 and checked for 3.12 and 3.13. base, tools and cpu are
constrained by the largest one, dev, so that they agree on every package they share. gpu is resolved separately, because
the CUDA build of vLLM pins other versions, and from the index alone: the wheel folders of pip's configuration may have
torch without CUDA.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from install import find_links, package_environment

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ["loadtest", "dashboards", "charts"]
EXTRAS = {
    "dev": ["serve", "cpu", *TOOLS, "dev"],
    "cpu": ["serve", "cpu", "redis"],
    "base": [],
    "tools": TOOLS,
    "gpu": ["serve", "gpu", "redis", *TOOLS],
}
PYTHONS = ["3.11", "3.12", "3.13"]
NO_TRITON = "triton ; sys_platform == 'never'"
# A wheel folder may have torch's CPU build for one version of Python only: the others are checked with the public one.
ANY_TORCH = "torch==2.13.0"


def main() -> None:
    """Write every lock, dev first, and check each for the other versions of Python."""
    target = ROOT / "requirements"
    with tempfile.TemporaryDirectory() as scratch:
        for name in EXTRAS:
            constraints = target / "dev.txt" if name in ("cpu", "base", "tools") else None
            upgrade = ["--upgrade"] if "--upgrade" in sys.argv else []
            print(f"lock {name}", flush=True)
            resolve(name, PYTHONS[0], target / f"{name}.txt", Path(scratch), constraints, *upgrade)
        for python in PYTHONS[1:]:
            for name, extras in EXTRAS.items():
                print(f"check {name} for Python {python}", flush=True)
                pins, found = target / f"{name}.txt", Path(scratch) / f"{name}-{python}.txt"
                cpu = "cpu" in extras
                resolve(name, python, found, Path(scratch), pins, overrides=[ANY_TORCH] if cpu else [])
                missing = sorted(_packages(found) - _packages(pins))
                if cpu:  # the public torch needs CUDA
                    missing = [package for package in missing if not package.startswith(("cuda-", "nvidia-"))]
                if missing:
                    sys.exit(f"error: the lock {name} lacks what Python {python} needs: {', '.join(missing)}")


def resolve(
    name: str,
    python: str,
    out: Path,
    scratch: Path,
    constraints: Path | None,
    *flags: str,
    overrides: Sequence[str] = (),
) -> None:
    """Resolve the extras of one lock for one version of Python into a file; constraints are pins that must hold."""
    extras = EXTRAS[name]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "pyproject.toml", *flags]
    command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28", "--no-annotate"]
    command += ["--no-header", "--no-emit-index-url", "--no-emit-find-links", "-o", str(out)]
    command += [part for extra in extras for part in ("--extra", extra)]
    if name != "gpu":
        command += [part for link in find_links() for part in ("--find-links", link)]
    if "cpu" in extras:
        overridden = scratch / "overrides.txt"
        overridden.write_text("\n".join([NO_TRITON, *overrides]))
        command += ["--overrides", str(overridden)]
    if constraints is not None:
        # A copy without torch's local version, which an override may replace, and not the file that is written.
        pins = scratch / "constraints.txt"
        pins.write_text(constraints.read_text().replace("+cpu", "" if overrides else "+cpu"))
        command += ["--constraints", str(pins)]
    subprocess.run(command, cwd=ROOT, env=package_environment(), check=True)


def _packages(lock: Path) -> set[str]:
    return {line.partition("==")[0] for line in lock.read_text().split()}


if __name__ == "__main__":
    main()
