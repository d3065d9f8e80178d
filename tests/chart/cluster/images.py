"""The images of the pods: built from deploy/'s own Dockerfiles, by the engine that `make test-compose` uses.

No registry is asked: their base is bootstrapped from Debian's archive (scripts/docker_tools.py). An image whose files
have not changed is not built again.
"""

from __future__ import annotations

import subprocess

import docker_tools
from cluster import CACHE
from docker_engine import build

PAUSE = "local/pause:1"


def main() -> None:
    """Build with the machine's network and without a bridge, then leave the images to the cluster's engine."""
    docker_tools.start(network=False)
    try:
        docker_tools.base()
        left = docker_tools.run("docker", "ps", "-aq", "--filter", "label=io.kubernetes.pod.name").stdout.split()
        if left:  # of a node that is gone
            docker_tools.run("docker", "rm", "--force", *left)
        build("deploy/Dockerfile.control", "hybridserve:0.1.0-control")
        build("deploy/Dockerfile.cpu", "hybridserve:0.1.0-cpu")
        if docker_tools.run("docker", "image", "inspect", PAUSE, check=False).returncode != 0:
            _pause()
    finally:
        docker_tools.stop()


def _pause() -> None:
    """What holds a pod's namespaces open: catatonit alone, which is linked statically."""
    tar = ["tar", "-C", str(CACHE / "root/usr/bin"), "-c", "catatonit"]
    program = subprocess.run(tar, capture_output=True, check=True).stdout
    words = ["docker", "import", "-c", 'ENTRYPOINT ["/catatonit","-P"]', "-", PAUSE]
    subprocess.run(words, input=program, env=docker_tools.environment(), check=True, capture_output=True)


if __name__ == "__main__":
    main()
