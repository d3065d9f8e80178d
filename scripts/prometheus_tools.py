"""Download Debian's prometheus and promtool into .cache/prometheus: `make prometheus-tools`. Prints the folder.

Installed `prometheus` and `promtool` on the PATH are used instead.
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
    """The folder with both programs, or None."""
    found = shutil.which(PROGRAMS[0])
    if found is not None and shutil.which(PROGRAMS[1]) is not None:
        return Path(found).parent
    cached = FOLDER / "usr" / "bin"
    return cached if all((cached / name).is_file() for name in PROGRAMS) else None


def fetch() -> Path:
    """The folder with both programs; downloads them when they are missing.

    Raises:
        RuntimeError: there is no apt-get or dpkg, or no such package.
    """
    if (folder := find()) is not None:
        return folder
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
        commands = [["apt-get", "download", "prometheus"]]
        for _ in range(2):
            try:
                done = [subprocess.run(command, cwd=scratch, capture_output=True, text=True) for command in commands]
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
