#!/usr/bin/env python3
"""Resolve pyproject.toml into requirements/*.txt: `make lock`, after a change of a dependency.

Pins that still satisfy pyproject.toml stay; `scripts/lock.py --upgrade` takes the newest versions.

The locks are for CPython 3.11 on Linux x86-64. base and cpu are constrained by the largest one, dev, so that they agree
on every package they share; gpu is resolved separately, because the CUDA build of vLLM pins other versions.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from install import find_links, package_environment

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {
    "dev": ["serve", "cpu", "loadtest", "dev"],
    "cpu": ["serve", "cpu"],
    "base": [],
    "gpu": ["serve", "gpu"],
}
NO_TRITON = "triton ; sys_platform == 'never'\n"


def main() -> None:
    """Write every lock, dev first."""
    target = ROOT / "requirements"
    with tempfile.TemporaryDirectory() as scratch:
        no_triton = Path(scratch) / "overrides.txt"
        no_triton.write_text(NO_TRITON)
        for name, extras in EXTRAS.items():
            command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "pyproject.toml"]
            command += ["--upgrade"] if "--upgrade" in sys.argv else []
            command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--no-annotate"]
            command += ["--no-header", "--no-emit-index-url", "--no-emit-find-links", "-o", str(target / f"{name}.txt")]
            command += [part for extra in extras for part in ("--extra", extra)]
            command += [part for link in find_links() for part in ("--find-links", link)]
            if "cpu" in extras:
                command += ["--overrides", str(no_triton)]
            if name in ("cpu", "base"):
                constraints = Path(scratch) / "constraints.txt"
                constraints.write_text((target / "dev.txt").read_text())
                command += ["--constraints", str(constraints)]
            print(f"lock {name}", flush=True)
            subprocess.run(command, cwd=ROOT, env=package_environment(), check=True)


if __name__ == "__main__":
    main()
