"""docker-compose.yml under a real Docker engine (`make test-compose`); the tests run in order on one project."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from compose_file import ROOT, STARTED
from docker_engine import (
    CONTROL,
    PROMETHEUS_IMAGE,
    START_S,
    Project,
    chat,
    docker,
    failed_with_one_line,
    free_port,
    record,
    until,
)

from hybridserve.planning.resolve import engine_args
from hybridserve.settings import Settings

pytestmark = pytest.mark.timeout(1500)


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
    project.up(profiles=("demo",))
    record("`docker compose --profile demo up --wait`, until healthy", time.monotonic() - started, "s")
    return project


def test_chat_is_answered(demo: Project) -> None:
    assert "hybridserve" in chat(int(demo.environ["PORT"])).lower()


def test_container_is_hardened(demo: Project) -> None:
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
    assert {port: [host["HostIp"] for host in hosts or []] for port, hosts in ports.items()} == {
        "8000/tcp": ["127.0.0.1"]
    }


def test_engine_arguments_equal_make_serve(demo: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (container,) = demo.containers("demo")
    words = ("hybridserve", "render", "vllm", "-c", "/etc/hybridserve/hybridserve.yaml", "--json")
    inside, here = json.loads(docker("exec", container, *words)), engine_args(Settings())
    assert Path(inside.pop("model")).name == Path(here.pop("model")).name == "demo_model"
    assert inside == here


def targets(project: Project) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{project.environ['PROMETHEUS_PORT']}/api/v1/targets"
    return list(httpx.get(url, trust_env=False).json()["data"]["activeTargets"])


@pytest.mark.parametrize(("profiles", "names"), STARTED.items())
def test_compose_starts_what_a_profile_names(profiles: str, names: str, project: Project) -> None:
    ran = project.compose("config", "--services", profiles=tuple(profiles.split()))
    assert set(ran.stdout.split()) == set(names.split()), ran.stderr


def all_up(project: Project) -> bool:
    """Replica, controller and Ray's export are up; no target of an ended process is left."""
    return len(found := targets(project)) >= 3 and all(target["health"] == "up" for target in found)


def test_prometheus_sees_every_target_and_no_rule_fails(demo: Project) -> None:
    started = time.monotonic()
    demo.up(profiles=("monitoring",), services=("demo", "prometheus"))
    record("Prometheus added by `--profile monitoring`, until healthy", time.monotonic() - started, "s")
    url = f"http://127.0.0.1:{demo.environ['PROMETHEUS_PORT']}"
    chat(int(demo.environ["PORT"]))
    until(f"targets {targets(demo)}", lambda: all_up(demo), 60)

    def evaluated() -> list[dict[str, str]]:
        groups = httpx.get(f"{url}/api/v1/rules", trust_env=False).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    until("rules", lambda: bool(evaluated()) and all(rule["health"] == "ok" for rule in evaluated()), 90)
    assert len(evaluated()) > 10


def test_grafana_provisioning_is_complete(demo: Project) -> None:
    """Another image does what Grafana does first (fake_grafana.py), because no registry with Grafana is reachable."""
    script = (ROOT / "tests/compose/fake_grafana.py").read_text()
    words = ("run", "--rm", "-T", "--entrypoint", "/opt/hybridserve/.venv/bin/python", "grafana", "-c", script)
    ran = demo.compose(*words, profiles=("monitoring",), GRAFANA_IMAGE=CONTROL)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout)
    boards = [
        json.loads(file.read_text())["title"] for file in (ROOT / "helm/hybridserve/files/dashboards").glob("*.json")
    ]
    assert found.pop("boards") == sorted(boards)
    assert found.pop("series") >= 3
    assert found == {"uid": 472, "status": "success", "password": len("secret")}


@pytest.mark.parametrize(("ttft", "code"), [(30.0, 0), (0.000001, 1)], ids=["met", "missed"])
def test_load_test_exit_code_follows_the_slo(ttft: float, code: int, demo: Project, tmp_path: Path) -> None:
    """The profile's own command with the chat scenario at two objectives: one is always met, one never."""
    scenario = yaml.safe_load((ROOT / "src/hybridserve/loadtest/scenarios/chat.yaml").read_text())
    scenario |= {"slo": {"ttft": ttft, "tpot": 30.0, "attainment": 0.5}}
    scenario |= {"curve": {"shape": "constant", "level": 1, "seconds": 8}}
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(scenario))
    words = ("run", "--rm", "-T", "--volume", f"{tmp_path}/gate.yaml:/gate.yaml:ro", "loadtest")
    ran = demo.compose(*words, profiles=("demo", "loadtest"), SCENARIO="/gate.yaml")
    assert ran.returncode == code, ran.stderr[-2000:] + ran.stdout[-2000:]
    assert "SLO" in ran.stdout + ran.stderr


def test_killed_container_is_restarted(demo: Project) -> None:
    (container,) = demo.containers("demo")
    started = docker("inspect", "--format", "{{.State.StartedAt}}", container)
    # From the host: after `docker kill` Docker does not restart a container.
    os.kill(int(docker("inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)

    def back() -> bool:
        state = json.loads(docker("inspect", "--format", "{{json .State}}", container))
        return state["StartedAt"] != started and state.get("Health", {}).get("Status") == "healthy"

    record("container killed, until healthy again", until("healthy again", back, START_S), "s")
    assert chat(int(demo.environ["PORT"]))
    until(f"targets {targets(demo)}", lambda: all_up(demo), 60)


def test_recreated_container_leaves_no_dead_target(demo: Project) -> None:
    """As after `docker compose build`: another container, with another host name, on the same volumes."""
    started = time.monotonic()
    demo.up("--force-recreate", services=("demo",))
    record("container made anew, until healthy", time.monotonic() - started, "s")
    until(f"targets {targets(demo)}", lambda: all_up(demo), 60)


def test_down_removes_everything(demo: Project) -> None:
    assert all(demo.leftovers()[kind] for kind in ("containers", "networks", "volumes"))
    started = time.monotonic()
    ran = demo.down()
    record("`docker compose down`, nothing left", time.monotonic() - started, "s")
    assert ran.returncode == 0, ran.stderr
    assert demo.leftovers() == {"containers": [], "networks": [], "volumes": []}


def test_scale_starts_two_demos(project: Project) -> None:
    """`--scale` with a range of ports: each replica takes one."""
    first = free_port(2)
    started = time.monotonic()
    project.up("--scale", "demo=2", profiles=("demo",), PORT=f"{first}-{first + 1}", MEMORY="6g")
    record("two of them (`--scale demo=2`), until healthy", time.monotonic() - started, "s")
    try:
        assert len(project.containers("demo")) == 2
        assert chat(first) == chat(first + 1)
    finally:
        project.down()


def test_low_memory_limit_is_one_line(project: Project) -> None:
    """Also detached: compose gives up at once, and the log has the line."""
    line = "hybridserve: the container may use 1024 MiB of memory and needs 4096; raise its limit"
    ran = project.compose("run", "--rm", "-T", "demo", MEMORY="1g")
    assert ran.returncode == 2
    failed_with_one_line(ran, line)
    started = time.monotonic()
    ran = project.compose("up", "--no-build", "--wait", profiles=("demo",), MEMORY="1g")
    logs = project.logs()
    project.down()
    assert ran.returncode != 0
    assert time.monotonic() - started < 60
    assert line in logs


def test_port_in_use_is_one_line(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = project.compose("up", "--no-build", "-d", "demo", PORT=str(port))
        project.down()
        failed_with_one_line(ran, f"127.0.0.1:{port}: bind: address already in use")


def test_missing_secret_is_one_line(project: Project, tmp_path: Path) -> None:
    ran = project.compose(
        "up", "--no-build", "-d", "gpu", profiles=("gpu",), KEYS_FILE=str(tmp_path / "no-keys"), GPU_IMAGE=CONTROL
    )
    project.down()
    failed_with_one_line(ran, str(tmp_path / "no-keys"))


def test_missing_gpu_runtime_is_one_line(project: Project, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("x\n")
    ran = project.compose(
        "up", "--no-build", "-d", "gpu", profiles=("gpu",), KEYS_FILE=str(keys), GPU_IMAGE=CONTROL, GPU_CPUS="1"
    )
    project.down()
    failed_with_one_line(ran, 'could not select device driver "nvidia"')
