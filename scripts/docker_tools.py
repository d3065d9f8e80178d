#!/usr/bin/env python3
"""A Docker engine from Debian's packages in an ignored folder, for tests on machines without one.

    python3 scripts/docker_tools.py start | stop | base | env

Nothing is installed on the machine: packages are unpacked below .cache/docker, the engine stores its data there, and
`stop` ends the process that `start` started, removes its bridge and restores the packet filter rules. Needs root. No
registry is used: `base` bootstraps a Debian with Python from Debian's archive.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "docker"
TREE = CACHE / "root"
STATE = CACHE / "state"
BASE_IMAGE = "hybridserve-test/python:bookworm"

PACKAGES = (
    "docker.io", "containerd", "runc", "iptables", "libip4tc2", "libip6tc2", "libxtables12", "libnftnl11",
    "libnetfilter-conntrack3", "libnfnetlink0", "libmnl0", "debootstrap",
)  # fmt: skip
# Bookworm has version 1; the package of the next release runs on bookworm's libraries.
COMPOSE = ("trixie", "docker-compose")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Not docker0, which belongs to the machine's own engine and which any engine without a bridge removes.
BRIDGE = ("hybridserve0", "172.31.240.1/24")
POOL = "172.31.241.0/24"
IPTABLES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")

# Without CAP_SYS_RESOURCE the kernel refuses a negative score, which dockerd sets for some containers.
RUNC = """#!{python}
import json, os, sys
from pathlib import Path
if "create" in sys.argv and "--bundle" in sys.argv:
    file = Path(sys.argv[sys.argv.index("--bundle") + 1]) / "config.json"
    config = json.loads(file.read_text())
    if (config["process"].get("oomScoreAdj") or 0) < 0:
        config["process"]["oomScoreAdj"] = 0
        file.write_text(json.dumps(config))
os.execv("{runc}", ["runc", *sys.argv[1:]])
"""


class Unavailable(Exception):
    """This machine cannot run the engine; the message has the reason."""


def environment() -> dict[str, str]:
    """Environment variables with which `docker` and `docker-compose` use this engine."""
    libraries = TREE / "usr/lib/x86_64-linux-gnu"
    path = (CACHE / "bin", TREE / "usr/bin", TREE / "usr/sbin", TREE / "usr/libexec/docker/cli-plugins")
    return {
        **os.environ,
        "PATH": ":".join([*map(str, path), os.environ["PATH"]]),
        "LD_LIBRARY_PATH": str(libraries),
        "XTABLES_LIBDIR": str(libraries / "xtables"),
        "DOCKER_HOST": f"unix://{CACHE / 'docker.sock'}",
        "DOCKER_CONFIG": str(CACHE / "client"),
        "DOCKER_BUILDKIT": "1",
    }


def run(*words: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run a command in that environment."""
    return subprocess.run(words, env=environment(), check=check, timeout=timeout, capture_output=True, text=True)


def get() -> None:
    """Download and unpack the packages unless that is done.

    Raises:
        Unavailable: not Debian, not root, or apt cannot reach its archive.
    """
    if os.geteuid() != 0:
        raise Unavailable("a Docker engine needs root")
    if shutil.which("apt-get") is None or not Path(KEYRING).exists():
        raise Unavailable("Debian's apt is needed to download a Docker engine")
    if not (CACHE / "complete").exists():
        _download()
        (CACHE / "complete").touch()
    tools = CACHE / "bin"  # made again each time: their paths are those of this checkout
    tools.mkdir(exist_ok=True)
    for name in IPTABLES:
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(TREE / "usr/sbin/xtables-nft-multi")
    clamped = tools / "runc-clamped"
    clamped.write_text(RUNC.format(python=sys.executable, runc=TREE / "usr/sbin/runc"))
    clamped.chmod(0o755)


def _download() -> None:
    """Download and unpack."""
    packages = CACHE / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    _apt(["download", *PACKAGES], packages)
    release, name = COMPOSE
    private = _separate_lists(release)
    _apt([*private, "update"], packages)
    _apt([*private, "download", name], packages)
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(TREE)], check=True)


def start(*, network: bool = True) -> None:
    """Start the engine unless it runs.

    Args:
        network: with a separate bridge and packet filter rules; without, builds use the machine's network unchanged.

    Raises:
        Unavailable: it does not start; the message has the last line of its log.
    """
    get()
    if running():
        return
    STATE.mkdir(parents=True, exist_ok=True)
    rules = run("iptables-save", check=False)
    if network and rules.returncode == 0:
        (STATE / "rules").write_text(rules.stdout)
    daemon = {
        "runtimes": {"clamped": {"path": str(CACHE / "bin" / "runc-clamped")}},
        "default-runtime": "clamped",
        "default-address-pools": [{"base": POOL, "size": 28}],
        # A layer of packages has 3 GB, and every build may add another.
        "builder": {"gc": {"enabled": True, "defaultKeepStorage": "12GB"}},
    }
    (STATE / "daemon.json").write_text(json.dumps(daemon))
    words = [
        str(TREE / "usr/sbin/dockerd"),
        f"--config-file={STATE}/daemon.json", "--oom-score-adjust=0", "--default-ulimit=nofile=20000:20000",
        "--storage-driver=overlay2", f"--data-root={CACHE}/data", f"--exec-root={STATE}/exec",
        f"--pidfile={STATE}/pid", f"--host=unix://{CACHE}/docker.sock",
    ]  # fmt: skip
    words += [f"--bridge={BRIDGE[0]}"] if network else ["--bridge=none", "--iptables=false", "--ip-masq=false"]
    (STATE / "pid").unlink(missing_ok=True)
    if network:
        _bridge()
    with (STATE / "log").open("wb") as log:
        daemon_process = subprocess.Popen(words, stdout=log, stderr=log, env=environment(), start_new_session=True)
    deadline = time.monotonic() + 60
    while not running():
        if daemon_process.poll() is not None or time.monotonic() > deadline:
            last = (STATE / "log").read_text(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(f"dockerd does not start: {''.join(last)[-300:]}")
        time.sleep(0.5)


def _bridge() -> None:
    name, address = BRIDGE
    subprocess.run(["ip", "link", "delete", name], capture_output=True)  # left by an engine that was killed
    for words in (
        ["link", "add", name, "type", "bridge"],
        ["addr", "add", address, "dev", name],
        ["link", "set", name, "up"],
    ):
        made = subprocess.run(["ip", *words], capture_output=True, text=True)
        if made.returncode != 0:
            raise Unavailable(f"ip {' '.join(words)}: {made.stderr.strip()}")


def running() -> bool:
    """Whether this engine answers."""
    return (CACHE / "docker.sock").exists() and run("docker", "version", check=False).returncode == 0


def stop() -> None:
    """End this engine, its bridge and its rules; images and the build cache remain."""
    try:
        pid = int((STATE / "pid").read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    if (STATE / "rules").exists():
        subprocess.run(["ip", "link", "delete", BRIDGE[0]], capture_output=True)
        subprocess.run(["iptables-restore"], input=(STATE / "rules").read_bytes(), env=environment(), check=False)
        (STATE / "rules").unlink()


def registry(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Debian's registry on a port of loopback, which Docker accepts without TLS; the caller ends it.

    Raises:
        Unavailable: its package cannot be downloaded.
    """
    program = TREE / "usr/bin/docker-registry"
    if not program.exists():
        _apt(["download", "docker-registry"], CACHE / "packages")
        (package,) = (CACHE / "packages").glob("docker-registry_*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(package), str(TREE)], check=True)
    config = {
        "version": 0.1,
        "http": {"addr": f"127.0.0.1:{port}"},
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
    }
    file = folder / "registry.json"
    file.write_text(json.dumps(config))
    return subprocess.Popen([program, "serve", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def base() -> None:
    """Make `BASE_IMAGE`: Debian bookworm with Python 3.11, in place of python:3.11-slim-bookworm.

    Raises:
        Unavailable: debootstrap failed.
    """
    if run("docker", "image", "inspect", BASE_IMAGE, check=False).returncode == 0:
        return
    folder = CACHE / "base"
    shutil.rmtree(folder, ignore_errors=True)
    packages = "python3,python3-venv,ca-certificates"
    environ = {**environment(), "DEBOOTSTRAP_DIR": str(TREE / "usr/share/debootstrap")}
    words = [str(TREE / "usr/sbin/debootstrap"), "--variant=minbase", f"--include={packages}", "bookworm", str(folder)]
    made = subprocess.run(words, env=environ, capture_output=True, text=True)
    if made.returncode != 0:
        raise Unavailable(f"debootstrap: {made.stdout.strip().splitlines()[-1:]}")
    # As Debian's own slim images do.
    left_out = ["./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*",
                "./var/cache/apt/*", "./var/lib/apt/lists/*", "./dev/*"]  # fmt: skip
    tar = subprocess.Popen(
        ["tar", "-C", str(folder), *(f"--exclude={path}" for path in left_out), "-c", "."], stdout=subprocess.PIPE
    )
    subprocess.run(
        ["docker", "import", "-", BASE_IMAGE], stdin=tar.stdout, env=environment(), check=True, capture_output=True
    )
    if tar.wait() != 0:
        raise Unavailable("the base could not be packed")
    shutil.rmtree(folder, ignore_errors=True)


def _separate_lists(release: str) -> list[str]:
    """apt options for another release in separate folders: the machine's lists do not change."""
    home = CACHE / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "status").touch()
    (home / "sources.list").write_text(f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {release} main\n")
    options = {
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": home / "lists",
        "Dir::State::status": home / "status",
        "Dir::Cache": home / "cache",
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _apt(words: list[str], folder: Path) -> None:
    ran = subprocess.run(["apt-get", "--quiet", *words], cwd=folder, capture_output=True, text=True)
    if ran.returncode != 0:
        last = (ran.stderr.strip() or ran.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"apt-get: {''.join(last)[-300:]} (apt-get update may be due)")


def main() -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python3 scripts/docker_tools.py start")
    parser.add_argument("verb", choices=["start", "stop", "base", "env"])
    verb = parser.parse_args().verb
    try:
        if verb == "start":
            start()
        elif verb == "stop":
            stop()
        elif verb == "base":
            start()
            base()
        else:
            variables = environment()
            for name in ("PATH", "LD_LIBRARY_PATH", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_BUILDKIT"):
                print(f"export {name}='{variables[name]}'")
    except Unavailable as problem:
        print(f"error: docker\n  what: {problem}\n  fix:  see the log in .cache/docker/state", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
