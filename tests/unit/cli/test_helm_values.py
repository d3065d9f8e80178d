"""Values of `hybridserve render helm`: nothing of the settings is lost, and nothing names a file of this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hybridserve.catalog.models import resolve_model
from hybridserve.cli.helm_needs import about
from hybridserve.cli.helm_values import helm_values
from hybridserve.errors import ConfigError, PlanRefused
from hybridserve.planning.resolve import ResolvedPlan, plan_settings
from hybridserve.settings import Settings
from support.helm_render import GUARD, NANO, all_needs_of, needs_of, values_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


# Replicas


def test_a_range_of_replicas_is_scaled() -> None:
    values = values_of({"scaling": {"min_replicas": 2, "max_replicas": 4, "start_up_s": 120}})
    assert values["autoscaling"] == {"scaler": "keda"}
    assert values["settings"]["scaling"] == {"min_replicas": 2, "max_replicas": 4, "start_up_s": 120}
    assert "replicaCount" not in values
    assert values_of({"scaling": {"max_replicas": 2}}, scaler="hpa")["autoscaling"] == {"scaler": "hpa"}


def test_a_fixed_number_keeps_the_other_settings_of_the_section() -> None:
    """Each pod has one replica, whose gateway still refuses requests that would be late."""
    values = values_of({"scaling": {"min_replicas": 3, "max_replicas": 3, "refuse_late": True, "ttft_s": 1.0}})
    assert values["replicaCount"] == 3
    assert values["settings"]["scaling"] == {"refuse_late": True, "ttft_s": 1.0}
    assert "autoscaling" not in values
    assert values_of({"scaling": {"max_replicas": 4}}, scaler="none")["replicaCount"] == 4


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"scaling": {"min_replicas": 0, "max_replicas": 2}}, "scaling.min_replicas"),
        ({"scaling": {"max_replicas": 2, "policy": "queue_length"}}, "scaling.policy"),
        ({"scaling": {"max_replicas": 2}, "server": {"data_path": "haproxy"}}, "server.data_path"),
    ],
)
def test_what_no_scaler_of_pods_does_is_refused(tree: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as refused:
        values_of(tree)
    assert refused.value.where == where
    assert "--mode rayservice, or --scaler none" in refused.value.fix
    assert values_of(tree, mode="rayservice")["settings"]["scaling"] == tree["scaling"]


def test_a_scaler_beside_rays_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="--scaler"):
        values_of(mode="rayservice", scaler="keda")


def test_the_head_says_which_operator_scales() -> None:
    (line,) = needs_of({"scaling": {"max_replicas": 4}})
    assert line == "autoscaling.scaler: 1 to 4 pods by keda, which needs KEDA in the cluster"
    (line,) = needs_of({"scaling": {"max_replicas": 4}}, scaler="none")
    assert line.startswith("replicaCount: 4 pods at all times, not 1 to 4")


# Images and operators


def test_the_head_names_the_images_and_the_operator() -> None:
    """No registry has the chart's own names."""
    (line,) = all_needs_of({})
    assert line.startswith("image, check.image: the chart's own names are on no registry; `make images REGISTRY=...")
    assert "dist/images-gpu.yaml" in line
    (line,) = all_needs_of({"accelerator": {"name": "cpu"}, "model": {"id": "demo"}})
    assert "dist/images-cpu.yaml" in line
    image = {"image": "registry.example/team/hybridserve@sha256:" + "ab" * 32}
    (line,) = all_needs_of({"license": image})
    assert line.startswith("check.image: ")
    assert [line for line in all_needs_of({}, mode="rayservice") if "KubeRay 1.7" in line]


def test_weights_of_the_image_are_checked_in_that_image() -> None:
    """A volume would hide them, and the image of the check has none."""
    tree = {"model": {"id": "nemotron-nano-9b-v2", "source": "/opt/weights"}, "license": {"weights": "baked"}}
    (line,) = all_needs_of(tree)
    assert line.startswith("image.repository, image.digest: the image with the weights")
    values = values_of(tree)
    assert values["check"] == {"image": {"repository": ""}}
    assert "weights" not in values
    tree["license"] = {"weights": "mounted"}
    assert "check" not in values_of(tree)
    assert needs_of(tree) == ["extraVolumes, extraVolumeMounts: a volume that has /opt/weights (settings.model.source)"]


# Guard


def test_a_guard_without_an_address_is_deployed() -> None:
    """At the commit that was reviewed, on the tainted nodes of GPUs; two pods in production."""
    values = values_of({"guard": GUARD | {"model": "qwen3guard-gen-4b"}})
    assert values["settings"]["guard"]["model"] == "Qwen/Qwen3Guard-Gen-4B"
    assert values["settings"]["guard"]["revision"] == "6ec42827da0c1ff11e7a49dc269d2e810d27e108"
    assert "url" not in values["settings"]["guard"]
    assert values["guard"]["deploy"] == {"enabled": True, "replicas": 1, "tolerations": values["tolerations"]}
    production = values_of({"guard": GUARD, "server": {"profile": "production"}})
    assert production["guard"]["deploy"]["replicas"] == 2


def test_a_guard_with_an_address_is_not_deployed() -> None:
    tree = {"guard": GUARD | {"url": "http://guard:8000/v1"}}
    assert "guard" not in values_of(tree)
    (line,) = needs_of(tree)
    assert line.startswith("networkPolicy.guard: the peers behind http://guard:8000/v1")


def test_rules_have_no_network_peer() -> None:
    assert needs_of({"guard": {"kind": "rules", "url": "http://guard:8000/v1"}}) == []


def test_the_license_of_a_deployed_guard_is_asked_for() -> None:
    (line,) = needs_of({"guard": GUARD})
    assert line.startswith("license.accepted: the chart runs Qwen/Qwen3Guard-Gen-4B only when")
    accepted = {"accepted": [{"license": "apache-2.0", "by": "Head of Legal", "accepted": "2026-11-20"}]}
    assert needs_of({"guard": GUARD, "license": accepted}) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_the_pod_itself_is_no_address_of_a_guard(host: str) -> None:
    """`init` proposes 127.0.0.1 for one machine; in a pod nothing would answer, and every request would fail."""
    with pytest.raises(ConfigError, match="the pod itself") as refused:
        values_of({"guard": GUARD | {"url": f"http://{host}:8002/v1"}})
    assert refused.value.where == "guard.url"
    assert "the chart runs the guard" in refused.value.fix
    with pytest.raises(ConfigError, match="the pod itself") as refused:
        values_of({"guard": {"kind": "nemo", "config_id": "a", "url": f"http://{host}:8000"}})
    assert "the chart runs" not in refused.value.fix


@pytest.mark.parametrize(
    ("model", "where"), [("example/some-guard", "guard.revision"), ("some-guard", "guard.model")], ids=str
)
def test_a_guard_that_cannot_be_downloaded_is_refused(model: str, where: str) -> None:
    with pytest.raises(ConfigError) as refused:
        values_of({"guard": GUARD | {"model": model}})
    assert refused.value.where == where
    assert "guard.url is empty" in refused.value.what


@pytest.mark.parametrize("mode", ["standalone", "rayservice"])
def test_the_server_of_limits_is_a_network_peer(mode: str) -> None:
    lines = needs_of({"access": {"limits_url": "redis://limits:6379/0"}}, mode=mode)
    assert [line for line in lines if line.startswith("networkPolicy.redis: the peers behind redis://limits:6379/0")]
    lines = needs_of({"access": {"limits_url": "unix:///sockets/redis"}}, mode=mode)
    assert not [line for line in lines if line.startswith("networkPolicy.redis")]


def test_the_head_says_that_pods_do_not_share_limits(tmp_path: Path) -> None:
    """Each pod has its own accounts, so a key would get a multiple of its limit."""
    pods = {"scaling": {"max_replicas": 4}}
    limited = pods | {"access": {"requests_per_minute": 60}}

    def lines(tree: dict[str, Any], **options: Any) -> list[str]:
        return [line for line in needs_of(tree, **options) if line.startswith("settings.access.limits_url")]

    for scaler in ("keda", "none"):
        (line,) = lines(limited, scaler=scaler)
        assert "a key gets up to 4 times its limit" in line
    assert not lines(pods)
    assert not lines({"access": {"max_streams": 8}})
    assert not lines(limited, mode="rayservice")
    assert not lines(pods | {"access": {"max_streams": 8, "limits_url": "redis://limits:6379/0"}})
    keys = tmp_path / "keys.txt"
    of_keys = pods | {"access": {"keys_file": str(keys)}}
    assert not lines(of_keys), "the file is not here"
    keys.write_text(f"# rpm=1 tpm=1\nalice sha256:{'ab' * 32} scopes=inference expires=2027-01-31\n")
    assert not lines(of_keys)
    keys.write_text(f"alice sha256:{'ab' * 32} scopes=inference tpm=100000\n")
    assert lines(of_keys)


# Models outside of the catalog


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `own` with a config.json, in the current folder."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text(json.dumps(resolve_model("qwen3-8b").config | {"rms_norm_eps": 1e-6}))
    return own


def test_a_model_of_a_folder_is_planned_without_the_folder(folder: Path) -> None:
    tree = {"model": {"id": "./own", "source": "example/own", "revision": COMMIT}}
    values = values_of(tree)
    planned = plan_settings(Settings.model_validate(NANO | tree))
    shutil.rmtree(folder)
    inside = plan_settings(Settings.model_validate(values["settings"]))
    assert inside.model.id == planned.model.id == values["plan"]["model"] == values["settings"]["model"]["id"]
    assert inside.advice.plan.cache == planned.advice.plan.cache
    assert values["weights"]["download"] is True


def test_the_size_of_its_files_is_kept(folder: Path) -> None:
    index = {"metadata": {"total_size": 12_345_678_901}, "weight_map": {"a": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    values = values_of({"model": {"id": "own", "source": "/models/own"}})
    assert values["settings"]["model"]["weight_bytes"] == 12_345_678_901
    assert "weights" not in values


@pytest.mark.parametrize(
    ("model", "where"),
    [
        ({"id": "./own"}, "model.id"),
        ({"id": "own", "source": "own"}, "model.source"),
        ({"id": "nemotron-nano-9b-v2", "source": "./elsewhere"}, "model.source"),
    ],
)
def test_weights_that_only_this_machine_has_are_refused(folder: Path, model: dict[str, str], where: str) -> None:
    with pytest.raises(ConfigError) as refused:
        values_of({"model": model})
    assert refused.value.where == where
    assert "no pod has it" in refused.value.what
    assert "weights.cache.existingClaim" in refused.value.fix


def test_a_folder_with_the_name_of_a_catalog_model_is_refused(folder: Path) -> None:
    folder.rename(folder.parent / "qwen3-8b")
    with pytest.raises(ConfigError, match="the catalog has a model of that name"):
        values_of({"model": {"id": "./qwen3-8b", "source": "example/own", "revision": COMMIT}})


def test_a_repository_is_rendered_as_its_catalog_id() -> None:
    values = values_of({"model": {"id": "nvidia/NVIDIA-Nemotron-Nano-9B-v2"}})
    assert values["settings"]["model"]["id"] == values["plan"]["model"] == "nemotron-nano-9b-v2"


def test_the_head_asks_for_commit_and_claim(folder: Path) -> None:
    (line,) = needs_of({"model": {"id": "./own", "source": "example/own"}})
    assert line.startswith("hybridserve render helm --set model.revision=COMMIT: the commit of example/own to download")
    assert "`hybridserve fetch example/own --revision main` asks the hub" in line
    (line,) = needs_of({"model": {"id": "./own", "source": "/models/own"}})
    assert line == "weights.cache.existingClaim: the claim that has /models/own"


def test_the_head_explains_the_profile_and_the_plan() -> None:
    """The block `plan` has other numbers than the settings, and a check that only warns looks like one that passed."""
    planned = plan_settings(Settings.model_validate(NANO))
    values = helm_values(planned.settings, planned=planned)
    profile, plan = about(values, planned)
    assert profile.startswith("settings.server.profile: demo, whose check only warns")
    engine, most = values["settings"]["engine"], values["plan"]
    assert most["maxNumSeqs"] > engine["max_num_seqs"]
    assert f"maxNumSeqs {most['maxNumSeqs']} (max_num_seqs is {engine['max_num_seqs']})" in plan
    production = plan_settings(Settings.model_validate(NANO | {"server": {"profile": "production"}}))
    assert len(about(helm_values(production.settings, planned=production), production)) == 1


@pytest.mark.parametrize("gpu", ["a10g", "a100-80gb"])
def test_the_most_sequences_of_the_plan_start_and_one_more_does_not(gpu: str) -> None:
    """More sequences leave fewer blocks, so the blocks of the planned number are too many."""
    values = helm_values(
        Settings.model_validate({"model": {"id": "nemotron-nano-9b-v2"}, "accelerator": {"name": gpu}})
    )
    most, rendered = values["plan"]["maxNumSeqs"], values["settings"]
    assert rendered["engine"]["max_num_seqs"] <= most < values["plan"]["numBlocks"]

    def planned(sequences: int) -> ResolvedPlan:
        engine = {**rendered["engine"], "max_num_seqs": sequences}
        return plan_settings(Settings.model_validate({**rendered, "engine": engine}))

    assert planned(most).advice.plan.low is not None
    with pytest.raises(PlanRefused):
        planned(most + 1)


# Types


@pytest.mark.parametrize(("gpu", "kind"), [("l40s", "bfloat16"), ("t4", "float16")])
def test_types_are_named(gpu: str, kind: str) -> None:
    """As the profiles have them: `auto` depends on the release."""
    engine = values_of({"model": {"id": "falcon-h1-0.5b-instruct"}, "accelerator": {"name": gpu}})["settings"]["engine"]
    assert {engine[name] for name in ("dtype", "mamba_cache_dtype", "kv_cache_dtype")} == {kind}


def test_types_of_the_settings_win_and_transformers_have_no_state() -> None:
    tree = {"model": {"id": "qwen3-8b"}, "engine": {"kv_cache_dtype": "fp8"}}
    engine = values_of(tree)["settings"]["engine"]
    assert engine["kv_cache_dtype"] == "fp8"
    assert "mamba_cache_dtype" not in engine
