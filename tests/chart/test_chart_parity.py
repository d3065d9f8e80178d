"""The chart starts what `hybridserve render vllm` prints: the same arguments, in both modes, for every profile."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_cases import check_exit_code
from chart_helm import CHART, HELM_3, HELM_4, ROOT, Object, only, template
from typer.testing import CliRunner

from hybridserve.cli import main, render
from hybridserve.cli.helm_values import Mode, helm_values, undecided
from hybridserve.errors import ConfigError
from hybridserve.planning.resolve import engine_args, plan_settings
from hybridserve.runtime.ingress import ray_environment
from hybridserve.settings import Settings, load
from hybridserve.settings.live import with_live_settings
from support.compliance_cases import EXAMPLE

PROFILES = sorted((ROOT / "helm" / "profiles").glob("*.yaml"))
COMMIT = "model.revision=0123456789abcdef0123456789abcdef01234567"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["render", *words])
    assert ended.value.code == 0
    return json.loads(capsys.readouterr().out)


def without_types(args: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in args.items() if name not in ("kv_cache_dtype", "mamba_cache_dtype")}


def settings_in(objects: list[Object]) -> dict[str, Any]:
    """Settings of the engine in a rendered chart; in mode rayservice, arguments and user_config together."""
    if services := [item for item in objects if item["kind"] == "RayService"]:
        (application,) = yaml.safe_load(services[0]["spec"]["serveConfigV2"])["applications"]
        started = Settings.model_validate(application["args"]["settings"])
        changed = with_live_settings(started, application["deployments"][0]["user_config"])
        return changed.model_dump(mode="json", exclude_unset=True)
    return dict(yaml.safe_load(only(objects, "ConfigMap", "demo-settings")["data"]["hybridserve.yaml"]))


@pytest.mark.parametrize("mode", ["standalone", "rayservice"])
@pytest.mark.parametrize("file", [*PROFILES, EXAMPLE], ids=lambda file: file.stem)
def test_engine_arguments_are_the_rendered_ones(
    file: Path, mode: Mode, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    named = load(file).settings
    assign = [] if named.model.id == "demo" or named.model.revision else ["--set", COMMIT]
    wanted = printed(capsys, "vllm", "-c", str(file), *assign, "--json")
    values = printed(capsys, "helm", "-c", str(file), *assign, "--mode", mode, "--json")
    if named.guard.kind == "model":
        values["networkPolicy"] = {"guard": [{"podSelector": {}}]}  # where the guard runs is the user's to say
    for binary in (HELM_3, HELM_4):
        inside = tmp_path / "hybridserve.yaml"
        inside.write_text(yaml.safe_dump(settings_in(template(values, binary=binary))))
        args = printed(capsys, "vllm", "-c", str(inside), "--json")
        assert without_types(args) == without_types(wanted)
        # What `auto` means for the engine is written out.
        types = {"kv_cache_dtype": args["dtype"]} | (
            {"mamba_cache_dtype": args["dtype"]} if "mamba_ssm_cache_dtype" in args else {}
        )
        assert named.accelerator.name == "cpu" or args == wanted | types


def test_large_integers_are_not_written_as_floats() -> None:
    """Helm reads numbers as floats: 42949672960 must not become 4.294967296e+10."""
    values = {"settings": {"engine": {"kv_cache_memory_bytes": 42949672960}}}
    for binary in (HELM_3, HELM_4):
        text = only(template(values, binary=binary), "ConfigMap", "demo-settings")["data"]["hybridserve.yaml"]
        assert "kv_cache_memory_bytes: 42949672960\n" in text


def test_render_helm_leaves_out_settings_of_the_chart() -> None:
    digest = f"sha256:{'ab' * 32}"
    settings = load(EXAMPLE, [f"license.image=registry.example/hybridserve@{digest}"]).settings
    values = helm_values(settings)
    assert values["image"] == {"registry": "registry.example", "repository": "hybridserve", "digest": digest}
    assert values["auth"] == {"existingSecret": "hybridserve-keys"}
    assert "host" not in values["settings"]["server"]
    assert "access" not in values["settings"]
    values["networkPolicy"] = {"guard": [{"podSelector": {}}]}
    inside = settings_in(template(values))
    assert inside["server"]["host"] == "0.0.0.0"
    assert inside["access"]["keys_file"] == "/etc/hybridserve-keys/keys"
    assert inside["license"]["image"] == settings.license.image
    assert inside["license"]["bundle"] == "/etc/hybridserve-notice"
    assert inside["license"]["accepted"] == settings.model_dump(mode="json", exclude_none=True)["license"]["accepted"]


@pytest.mark.parametrize("mode", ["standalone", "rayservice"])
@pytest.mark.parametrize("gpu", ["a10g", "l40s", "h100", "cpu"])
def test_values_without_a_settings_file_install(gpu: str, mode: str, tmp_path: Path) -> None:
    """What `render helm MODEL --gpu GPU` prints renders, is pinned to a commit, and passes the check of the chart."""
    done = CliRunner().invoke(render.app, ["helm", "nemotron-nano-9b-v2", "--gpu", gpu, "--mode", mode])
    assert done.exit_code == 0, done.output
    asked = [line.split(":")[0] for line in done.output.splitlines() if line.startswith("# - ")]
    cluster = ["# - image, check.image", *(["# - mode"] if mode == "rayservice" else [])]
    assert asked == [*cluster, "# - license.accepted", "# - guard.input", "# - guard.output", "# - exposure.keys"]
    values = yaml.safe_load(done.output)
    commit = values["settings"]["model"]["revision"]
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert commit in values["notice"]["files"]["MODELS.md"]
    checked = only(template(values), "ConfigMap", "demo-check")["data"]["hybridserve.yaml"]
    assert check_exit_code(checked, tmp_path) == 0


def test_a_complete_production_file_leaves_nothing_to_decide() -> None:
    planned = plan_settings(load(EXAMPLE).settings)
    day = planned.settings.license.accepted[0].accepted
    assert undecided(helm_values(planned.settings), planned, day) == []


def test_an_image_without_digest_is_refused() -> None:
    settings = Settings.model_validate({"license": {"image": "hybridserve:latest"}})
    with pytest.raises(ConfigError, match=r"license\.image"):
        helm_values(settings)


def test_gpus_follow_from_the_settings() -> None:
    settings = Settings.model_validate(
        {
            "model": {"id": "nemotron-nano-9b-v2"},
            "accelerator": {"name": "l40s"},
            "engine": {"tensor_parallel_size": 2},
            "scaling": {"min_replicas": 3, "max_replicas": 3},
        }
    )
    values = helm_values(settings, "standalone")
    assert values["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert (values["replicaCount"], values.get("strategy", "")) == (3, "")
    assert values["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}, "no pod needs a fourth pair of GPUs"
    assert values["weights"]["cache"]["perPod"] is True
    assert "scaling" not in values["settings"]
    values = helm_values(settings, "rayservice")
    assert values["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert values["ray"]["workerGroups"][0] == {
        "name": "engine",
        "replicas": 3,
        "minReplicas": 3,
        "maxReplicas": 4,
        "acceleratorType": "L40S",
    }


def test_pinned_plan_gives_the_same_engine_arguments() -> None:
    """The values hold the plan's choices as settings: planned again, they are the same."""
    for file in PROFILES:
        settings = load(file).settings
        pinned = Settings.model_validate(helm_values(settings)["settings"])
        assert without_types(engine_args(pinned)) == without_types(engine_args(settings, plan_settings(settings)))


def test_profiles_are_in_the_chart() -> None:
    """Those whose commit is known: the others cannot be downloaded before a person has chosen a commit."""
    shipped = {file.name for file in (CHART / "profiles").glob("*.yaml")}
    assert shipped == {file.name for file in PROFILES if "is not in the catalog" not in file.read_text("utf-8")}
    assert len(shipped) >= 4


def test_haproxy_environment_matches_serve() -> None:
    """Ray reads it in every process of every node, so in mode rayservice it is set on the pods."""
    wrapper = "/opt/hybridserve/.venv/bin/hybridserve-haproxy"
    values = {"mode": "rayservice", "drainSeconds": 7200, "ray": {"token": {"existingSecret": "t"}},
              "settings": {"server": {"data_path": "haproxy"}}}  # fmt: skip
    wanted = ray_environment("haproxy", Settings.model_validate({"server": {"drain_timeout_s": 7200}}), wrapper)
    cluster = only(template(values), "RayService")["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        variables = group["template"]["spec"]["containers"][0]["env"]
        given = {
            one["name"]: one["value"]
            for one in variables
            if one["name"] in wanted
            or (one["name"].startswith("RAY_SERVE") and one["name"] != "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING")
        }
        assert set(given) == set(wanted)
        # The number of threads is that of the machine.
        assert {name: given[name] for name in given if "NBTHREAD" not in name} == {
            name: wanted[name] for name in wanted if "NBTHREAD" not in name
        }
