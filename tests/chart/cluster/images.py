"""The images the pods run: this machine's own environment, packed. Not what deploy/Dockerfile builds, and it says so.

No registry can be reached where these tests run, so a base image cannot be pulled. What runs in the pods is the same
Python, the same locked packages and the same source.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from chart_helm import ROOT
from cluster import CACHE, Cluster

ENGINE = "hybridserve:0.1.0-cpu"
TAR = ("tar", "-C", "/", "--mode=a+rX,go-w", "--owner=0", "--group=0", "-c")
# vLLM asks lscpu for the cores it may use.
NAMES = ("bash", "dash", "sh", "sleep", "env", "cat", "ls", "touch", "tr", "id", "mkdir", "uname", "lscpu", "ps")
PROGRAMS = tuple(f"usr/bin/{name}" for name in NAMES)
SYSTEM = (
    "bin", "lib", "lib64", "sbin", "usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/share/zoneinfo/UTC",
    "etc/passwd", "etc/group", "etc/nsswitch.conf", "etc/ld.so.cache", "etc/ssl/openssl.cnf",
    *PROGRAMS,
)  # fmt: skip


def build(cluster: Cluster) -> None:
    """Make the images that are missing; what earlier runs left behind goes."""
    cluster.docker("container", "prune", "--force")
    cluster.docker("image", "prune", "--force")
    have = cluster.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    if "local/pause:1" not in have:
        catatonit = ["tar", "-C", str(CACHE / "root/usr/bin"), "-c", "catatonit"]
        pipe(cluster, catatonit, "import", "-c", 'ENTRYPOINT ["/catatonit","-P"]', "-", "local/pause:1")
    base = f"hybridserve-base:{hashlib.sha256((ROOT / 'requirements/dev.txt').read_bytes()).hexdigest()[:12]}"
    if base not in have:
        python = Path(sys.executable).resolve().parents[1]
        mine = [str(path).lstrip("/") for path in (ROOT / ".venv", python)]
        skip = ["--exclude=*.a", f"--exclude={mine[1]}/lib/python3*/test"]
        system = [name for name in SYSTEM if (Path("/") / name).exists()]
        pipe(cluster, [*TAR, *skip, *system, *mine], "import", "-", base)
    # The source changes more often than the lock: it and the few programs are laid over the packages at every run.
    container = cluster.docker("create", base, "true").strip()
    pipe(cluster, [*TAR, *PROGRAMS, str(ROOT / "src").lstrip("/")], "cp", "-", f"{container}:/")
    words = [
        f'ENTRYPOINT ["{ROOT}/.venv/bin/hybridserve"]',
        f"ENV PATH={ROOT}/.venv/bin:/usr/bin:/bin",
        "USER 10001:10001",
    ]
    cluster.docker("commit", *(part for word in words for part in ("--change", word)), container, ENGINE)
    cluster.docker("rm", container)


def pipe(cluster: Cluster, tar: list[str], *words: str) -> None:
    """`tar | docker ...`."""
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as source:
        docker = str(CACHE / "root/usr/bin/docker")
        subprocess.run([docker, *words], stdin=source.stdout, env=cluster.environment(), check=True)
    if source.returncode != 0:
        raise RuntimeError(f"tar ended with {source.returncode}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        alone = Cluster(Path(folder))
        alone.network()
        alone.start_docker()
        try:
            build(alone)
            print(alone.docker("images"))
        finally:
            alone.stop()
