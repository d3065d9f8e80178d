"""Download programs that tests need from Debian's packages into .cache: `make prometheus-tools redis-tools`.

Prints the folder. Programs on the PATH are used instead. Example: python scripts/debian_tools.py redis
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Name to its programs, and the packages that have them and the libraries that a small image lacks.
TOOLS = {
    "prometheus": (("prometheus", "promtool"), ("prometheus",)),
    "redis": (("redis-server",), ("redis-server", "redis-tools", "liblzf1", "libjemalloc2")),
}


def _folder(tool: str) -> Path:
    return ROOT / ".cache" / tool


def find(tool: str) -> Path | None:
    """The folder with all programs of a tool, or None."""
    programs = TOOLS[tool][0]
    found = [shutil.which(name) for name in programs]
    if all(found):
        return Path(str(found[0])).parent
    cached = _folder(tool) / "usr" / "bin"
    return cached if all((cached / name).is_file() for name in programs) else None


def fetch(tool: str) -> Path:
    """The folder with the programs of a tool; downloads them when they are missing.

    Raises:
        RuntimeError: there is no apt-get or dpkg, or no such package.
    """
    if (folder := find(tool)) is not None:
        return folder
    packages, target = TOOLS[tool][1], _folder(tool)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        download = ["apt-get", "download", *packages]
        for commands in ([download], [["apt-get", "update"], download]):
            try:
                done = [subprocess.run(command, cwd=scratch, capture_output=True, text=True) for command in commands]
            except FileNotFoundError as error:
                raise RuntimeError(f"no {error.filename} on this machine") from None
            if done[-1].returncode == 0:
                break
        found = sorted(Path(scratch).glob("*.deb"))
        if len(found) < len(packages):
            raise RuntimeError(f"apt-get download {' '.join(packages)}: {done[-1].stderr.strip()}")
        for package in found:
            subprocess.run(["dpkg", "-x", str(package), str(target)], check=True)
    return target / "usr" / "bin"


if __name__ == "__main__":
    try:
        print(fetch(sys.argv[1]))
    except RuntimeError as problem:
        sys.exit(f"{sys.argv[1]}: {problem}")
