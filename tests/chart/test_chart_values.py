"""Values of `hybridserve render helm` in the chart: replicas, a guard, a model of a folder, and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_cases import check_exit_code, values_of
from chart_helm import CHART, HELM_3, HELM_4, Object, only, template
from test_chart_upgrade import merged
from typer.testing import CliRunner

from hybridserve import yamlio
from hybridserve.catalog.models import resolve_model
from hybridserve.cli import render
from hybridserve.planning.resolve import plan_settings
from hybridserve.settings import Settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PRODUCTION = """\
server: {profile: production}
model: {id: nemotron-nano-9b-v2, revision: 6533e8de2c68e4536bf7c411d7a3ce5734111476}
accelerator: {name: l40s}
engine: {max_model_len: 32768, reasoning_parser: nemotron_v3}
guard:
  {kind: model, model: Qwen/Qwen3Guard-Gen-4B, format: qwen3guard, revision: 6ec42827da0c1ff11e7a49dc269d2e810d27e108}
access: {keys_file: keys.txt}
license:
  accepted:
    - {license: nvidia-open-model-2025-10-24, by: Head of Legal, accepted: 2026-11-20}
    - {license: apache-2.0, by: Head of Legal, accepted: 2026-11-20}
  image: registry.example/hybridserve@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  about: about.md
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "about.md").write_text("# About\n")
    (tmp_path / "hybridserve.yaml").write_text(PRODUCTION)
    return tmp_path


def rendered(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(render.app, ["helm", *words])
    assert done.exit_code == 0, done.output
    values = yaml.safe_load(done.output)
    assert isinstance(values, dict)
    return values


def checked(objects: list[Object]) -> str:
    return str(only(objects, "ConfigMap", "demo-check")["data"]["hybridserve.yaml"])


def mounts(pod: dict[str, Any], name: str) -> set[str]:
    """Paths at which the containers of a pod mount a volume."""
    return {
        mount["mountPath"]
        for container in pod["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] == name
    }


@pytest.mark.parametrize(("scaler", "kind"), [("keda", "ScaledObject"), ("hpa", "HorizontalPodAutoscaler")])
def test_a_range_of_replicas_renders_a_scaler(scaler: str, kind: str) -> None:
    bounds = ["--set", "scaling.min_replicas=2", "--set", "scaling.max_replicas=4"]
    values = rendered("nemotron-nano-9b-v2", "--gpu", "l40s", *bounds, "--scaler", scaler)
    objects = template(values)
    spec = only(objects, kind)["spec"]
    least = spec.get("minReplicaCount", spec.get("minReplicas"))
    assert (least, spec.get("maxReplicaCount", spec.get("maxReplicas"))) == (2, 4)
    assert "replicas" not in only(objects, "Deployment", "demo")["spec"]


@pytest.mark.parametrize("mode", ["standalone", "rayservice"])
def test_production_with_a_guard_of_the_chart_passes_the_check(mode: str, here: Path) -> None:
    """One settings file, without an address of a guard that does not exist yet."""
    values = rendered("-c", "hybridserve.yaml", "--mode", mode)
    objects = template(values)
    text = checked(objects)
    assert yaml.safe_load(text)["guard"]["url"] == "http://demo-guard.serving.svc:8000/v1"
    assert only(objects, "Deployment", "demo-guard")["spec"]["replicas"] == 2
    # The check reads the file where the chart mounts it.
    job = only(objects, "Job", "demo-check")["spec"]["template"]["spec"]
    (folder,) = mounts(job, "files")
    assert yaml.safe_load(text)["license"]["about"] == f"{folder}/license.about.md"
    (volume,) = [one for one in job["volumes"] if one["name"] == "files"]
    data = only(objects, "ConfigMap", "demo-check")["data"]
    for item in volume["configMap"]["items"]:
        (here / item["path"]).write_text(data[item["key"]])
    assert check_exit_code(text.replace(folder, str(here)), here) == 0


def test_a_guard_on_a_cpu_asks_for_no_gpu(here: Path) -> None:
    guard = yaml.safe_load(PRODUCTION)["guard"]
    words = [part for name, value in guard.items() for part in ("--set", f"guard.{name}={value}")]
    accepted = "license.accepted=[{license: apache-2.0, by: Head of Legal, accepted: 2026-11-20}]"
    guarded = only(template(rendered("demo", *words, "--set", accepted)), "Deployment", "demo-guard")
    (container,) = guarded["spec"]["template"]["spec"]["containers"]
    assert "gpu" not in json.dumps(container["resources"])


@pytest.mark.parametrize("binary", [HELM_3, HELM_4], ids=["helm-3", "helm-4"])
def test_a_model_of_a_folder_reaches_the_pod_unchanged(binary: Path, here: Path) -> None:
    """Helm writes 1e-06, which YAML 1.1 reads as text."""
    config = resolve_model("qwen3-8b").config | {"rms_norm_eps": 1e-6, "rope_theta": 10_000_000.0, "n": 123456789012}
    (here / "own").mkdir()
    (here / "own" / "config.json").write_text(json.dumps(config))
    where = ["--set", "model.source=example/own", "--set", f"model.revision={COMMIT}"]
    values = rendered("./own", "--gpu", "l40s", *where)
    (here / "own" / "config.json").unlink()
    objects = template(values, binary=binary)
    settings = Settings.model_validate(yamlio.parse(checked(objects), "check"))
    assert settings.model.config == config
    assert plan_settings(settings).advice.plan.cache is not None
    assert check_exit_code(checked(objects), here) == 0


def test_files_are_mounted_where_settings_name_them() -> None:
    values = {
        "settings": {"engine": {"chat_template": "/etc/hybridserve-files/t.jinja"}},
        "files": {"t.jinja": "{{ a }}"},
    }
    pod = only(template(values), "Deployment", "demo")["spec"]["template"]["spec"]
    assert mounts(pod, "files") == {"/etc/hybridserve-files"}
    assert only(template(values), "ConfigMap", "demo-files")["data"] == {"t.jinja": "{{ a }}"}
    ray = merged(values_of("rayservice"), values)
    cluster = only(template(ray), "RayService")["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert mounts(group["template"]["spec"], "files") == {"/etc/hybridserve-files"}
    # A running pod gets a changed text in place. Another name is a file that is read at start.
    text, name = (
        only(template(merged(ray, {"files": files})), "RayService")["spec"]["rayClusterConfig"]
        for files in ({"t.jinja": "b"}, {"u.jinja": "b"})
    )
    assert text == cluster
    assert name != cluster


def test_the_key_of_a_guard_is_mounted() -> None:
    values = {
        "settings": {
            "guard": {"kind": "model", "url": "https://guard.example/v1", "model": "a/b", "format": "llama_guard"}
        },
        "guard": {"keySecret": "guard-key", "keySecretKey": "token"},
        "networkPolicy": {"guard": [{"ipBlock": {"cidr": "192.0.2.1/32"}}]},
    }
    objects = template(values)
    pod = only(objects, "Deployment", "demo")["spec"]["template"]["spec"]
    (volume,) = [one for one in pod["volumes"] if one["name"] == "guard-key"]
    assert volume["secret"] == {"secretName": "guard-key", "items": [{"key": "token", "path": "key"}]}
    (path,) = mounts(pod, "guard-key")
    assert yaml.safe_load(checked(objects))["guard"]["api_key_file"] == f"{path}/key"


@pytest.mark.parametrize("file", sorted((CHART / "profiles").glob("nemotron*.yaml")), ids=lambda file: file.stem)
def test_a_profile_has_the_types_of_render_helm(file: Path) -> None:
    profile = yaml.safe_load(file.read_text(encoding="utf-8"))
    plain = rendered("nemotron-nano-9b-v2", "--gpu", profile["settings"]["accelerator"]["name"])
    types = ("dtype", "kv_cache_dtype", "mamba_cache_dtype", "mamba_ssm_cache_dtype")
    engines = [values["settings"]["engine"] for values in (profile, plain)]
    assert {name: engines[0][name] for name in types} == {name: engines[1][name] for name in types}
