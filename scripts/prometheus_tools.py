"""Fetch Debian's Prometheus and promtool into .cache/prometheus, without installing it; prints the folder.

An installed `prometheus` and `promtool` on the PATH are taken as they are. Tests, `make prometheus-tools`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "prometheus"
PROGRAMS = ("prometheus", "promtool")


def find() -> Path | None:
    """The folder with both programs; None when they are not here."""
    found = shutil.which(PROGRAMS[0])
    if found is not None and shutil.which(PROGRAMS[1]) is not None:
        return Path(found).parent
    cached = FOLDER / "usr" / "bin"
    return cached if all((cached / name).is_file() for name in PROGRAMS) else None


def fetch() -> Path:
    """The folder with both programs, fetched when they are not here.

    Raises:
        RuntimeError: there is no apt-get or dpkg, or no such package.
    """
    if (here := find()) is not None:
        return here
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
        commands = [["apt-get", "download", "prometheus"]]
        for _ in range(2):
            try:
                done = [subprocess.run(one, cwd=scratch, capture_output=True, text=True) for one in commands]
            except FileNotFoundError as error:
                raise RuntimeError(f"no {error.filename} on this machine") from None
            if done[-1].returncode == 0:
                break
            commands = [["apt-get", "update"], ["apt-get", "download", "prometheus"]]
        package = next(Path(scratch).glob("prometheus_*.deb"), None)
        if package is None:
            raise RuntimeError(f"apt-get download prometheus: {done[-1].stderr.strip()}")
        subprocess.run(["dpkg", "-x", str(package), str(FOLDER)], check=True)
    return FOLDER / "usr" / "bin"


if __name__ == "__main__":
    try:
        print(fetch())
    except RuntimeError as problem:
        sys.exit(f"prometheus: {problem}")
