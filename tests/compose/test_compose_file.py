"""docker-compose.yml: schema, hardening, limits, private networks, pinned images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_file import ENV_EXAMPLE, FILE, ROOT, STARTED, compose, services, settings_file, started, variables

from hybridserve.settings import Settings, load

SERVICES = sorted(services())
PUBLISHED = {"demo", "gpu", "prometheus", "grafana", "alertmanager"}


def schema_check(file: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(words, capture_output=True, text=True)


def test_file_matches_the_compose_schema(tmp_path: Path) -> None:
    ran = schema_check(FILE)
    assert ran.returncode == 0, ran.stdout
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text().replace("read_only:", "read_onyl:"))
    assert schema_check(wrong).returncode == 1


@pytest.mark.parametrize(("profiles", "names"), STARTED.items())
def test_a_profile_starts_what_it_names(profiles: str, names: str) -> None:
    assert started(*profiles.split()) == set(names.split())


def test_the_load_test_asks_the_service_that_is_named() -> None:
    """By its name on a network that both are on, for each of the services that it can wait for."""
    loadtest = services()["loadtest"]
    for target in loadtest["depends_on"]:
        asked = compose({"LOADTEST_TARGET": target})["services"]["loadtest"]["command"]
        assert f"http://{target}:8000" in asked
        assert set(services()[target]["networks"]) & set(loadtest["networks"])
    assert "http://demo:8000" in loadtest["command"]


def test_images_of_this_project_can_be_built() -> None:
    ours = {name: service for name, service in services().items() if service["image"].startswith("hybridserve:")}
    assert set(ours) == {"demo", "gpu", "guard", "loadtest"}
    for name, service in ours.items():
        assert (ROOT / service["build"]["dockerfile"]).is_file(), name


def test_secret_files_need_no_reader_but_their_group() -> None:
    users = {name: service for name, service in services().items() if "secrets" in service}
    assert set(users) == {"gpu", "grafana"}
    for name in users:
        assert compose({"SECRETS_GID": "1000"})["services"][name]["group_add"] == ["1000"]


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_hardened_limited_and_pinned(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "pid", "ipc", "network_mode", "devices", "userns_mode"} & set(service)
    assert int(service["user"].partition(":")[0]) > 0
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))
    assert service["restart"] in ("unless-stopped", "no")
    assert service["logging"]["options"]["max-size"]
    limits = service["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) > 0
    assert re.fullmatch(r"\d+[mg]", limits["memory"])
    assert limits["pids"] > 0
    repository, _, tag = service["image"].rpartition(":")
    assert repository
    assert re.search(r"\d+\.\d+\.\d+", tag), tag
    if name != "loadtest":
        assert service["healthcheck"]["test"][0] == "CMD"
        assert {"interval", "timeout", "retries"} <= set(service["healthcheck"])


def test_ports_are_published_on_loopback_by_variables() -> None:
    text = FILE.read_text()
    for line in re.findall(r"ports: .*", text):
        assert re.fullmatch(r'ports: \["\$\{BIND:-127\.0\.0\.1\}:\$\{[A-Z_]+:-\d+\}:\d+"\]', line), line
    assert {name for name, service in services().items() if service.get("ports")} == PUBLISHED
    hosts = [port for service in services().values() for port in service.get("ports", [])]
    assert len(hosts) == len(set(hosts))


def test_guard_and_engine_are_on_private_networks() -> None:
    networks: dict[str, Any] = compose()["networks"]
    assert networks == {"front": {}, "scrape": {"internal": True}, "guarded": {"internal": True}}
    on = {name: set(service["networks"]) for name, service in services().items()}
    assert on["guard"] == {"guarded"}
    assert {name for name, nets in on.items() if "guarded" in nets} == {"guard", "gpu"}
    assert {name for name, nets in on.items() if "front" in nets} == PUBLISHED
    assert on["loadtest"] == {"scrape"}
    # Ports of Ray and of the engine are never published.
    for name in ("demo", "gpu"):
        assert [port.rpartition(":")[2] for port in services()[name]["ports"]] == ["8000"]


def test_dependencies_wait_for_health() -> None:
    for service in services().values():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            assert "healthcheck" in services()[needed]


def test_secrets_are_files() -> None:
    document = compose()
    assert all(set(secret) == {"file"} for secret in document["secrets"].values())
    for service in services().values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", name):
                assert name.endswith("__FILE"), name
                assert str(value).startswith("/run/secrets/")
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/secrets/" in ignored
    assert ".env" in ignored


def test_mounted_files_exist() -> None:
    for config in compose()["configs"].values():
        assert (ROOT / config["file"]).is_file(), config
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_dir(), source
                assert Path(source).parts[:2] in (
                    ("deploy", "prometheus"),
                    ("deploy", "grafana"),
                    ("helm", "hybridserve"),
                )
                assert volume.endswith(":ro"), volume
            else:
                assert source in compose()["volumes"]


def test_env_example_lists_every_variable_with_its_default() -> None:
    pairs = [line.split("=", 1) for line in ENV_EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    example = dict(pairs)
    assert len(example) == len(pairs)
    assert set(example) == set(variables())
    for name, default in variables().items():
        assert example[name] == default, name


def test_grace_period_is_longer_than_the_drain() -> None:
    for name in ("demo", "gpu"):
        assert int(services()[name]["stop_grace_period"].rstrip("s")) > Settings().server.drain_timeout_s + 10


def mounted(service: str, inside: str) -> Path:
    """The folder of this repository that a service sees at or above a path, joined with what is below it."""
    for volume in services()[service]["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith(".") and Path(inside).is_relative_to(target):
            return Path(ROOT / source / Path(inside).relative_to(target))
    raise AssertionError(f"{service} mounts nothing from the repository at {inside}")


def test_prometheus_reads_the_target_files_of_replicas() -> None:
    (file,) = [word.partition("=")[2] for word in services()["prometheus"]["command"] if "config.file" in word]
    config = yaml.safe_load(mounted("prometheus", file).read_text())
    (job,) = config["scrape_configs"]
    (read,) = job["file_sd_configs"][0]["files"]
    assert f"targets:{Path(read).parent}:ro" in services()["prometheus"]["volumes"]
    for name in ("demo", "gpu"):
        telemetry = load(settings_file(services()[name]), environ={}).settings.telemetry
        assert telemetry.metrics_host == "0.0.0.0"
        assert f"targets:{telemetry.targets_dir}" in services()[name]["volumes"]
    for pattern in config["rule_files"]:
        rules = mounted("prometheus", os.path.normpath(Path(file).parent / pattern))
        assert rules == (ROOT / "deploy/prometheus" / pattern).resolve()
        assert list(rules.parent.glob(rules.name)), pattern


def test_grafana_is_provisioned_with_every_dashboard() -> None:
    inside = services()["grafana"]["environment"]["GF_PATHS_PROVISIONING"]
    provisioning = {
        kind: [yaml.safe_load(file.read_text()) for file in mounted("grafana", f"{inside}/{kind}").glob("*.yaml")]
        for kind in ("datasources", "dashboards")
    }
    (source,) = provisioning["datasources"][0]["datasources"]
    assert (source["url"], source["type"]) == ("http://prometheus:9090", "prometheus")
    assert set(services()["grafana"]["networks"]) & set(services()["prometheus"]["networks"])
    (provider,) = provisioning["dashboards"][0]["providers"]
    shown = mounted("grafana", provider["options"]["path"])
    assert shown == ROOT / "helm/hybridserve/files/dashboards"
    assert len(list(shown.glob("*.json"))) >= 7
