"""Values of `hybridserve render helm`: nothing of the settings is lost, and nothing names a file of this machine."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hybridserve.catalog.models import resolve_model
from hybridserve.cli import helm_files
from hybridserve.cli.helm_files import CHECKED_FILES, FOLDER, REFERENCE, SECRET_FILES, START_FILES, WRITTEN
from hybridserve.cli.helm_needs import about, needs
from hybridserve.cli.helm_values import CHART_SETS, LOCAL_SETTINGS, helm_values
from hybridserve.compliance.evidence import seal_record
from hybridserve.errors import ConfigError, PlanRefused
from hybridserve.planning.deployment import profiled_settings
from hybridserve.planning.memory.profile import record
from hybridserve.planning.resolve import ResolvedPlan, plan_settings
from hybridserve.settings import Settings
from hybridserve.verify.reference import Entry, Probe, Reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NANO: dict[str, Any] = {"model": {"id": "nemotron-nano-9b-v2"}, "accelerator": {"name": "l40s"}}
GUARD = {"kind": "model", "model": "Qwen/Qwen3Guard-Gen-4B", "format": "qwen3guard"}


def values_of(*trees: dict[str, Any], **options: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for tree in (NANO, *trees):
        for section, content in tree.items():
            merged[section] = merged.get(section, {}) | content
    return helm_values(Settings.model_validate(merged), **options)


def needs_of(tree: dict[str, Any], **options: Any) -> list[str]:
    planned = plan_settings(Settings.model_validate(NANO | tree))
    return needs(helm_values(planned.settings, planned=planned, **options), planned)


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
    assert line.startswith("--set model.revision=COMMIT: the commit of example/own to download")
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


# Files


def file_settings() -> set[str]:
    """Every setting that is a path, by its type or its name."""
    found = set()
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, BaseModel)
        for name, setting in kind.model_fields.items():
            if "Path" in str(setting.annotation) or name.endswith(("_file", "_dir", "_template")):
                found.add(f"{section}.{name}")
    return found


def test_every_setting_with_a_path_is_handled() -> None:
    handled = {*START_FILES, *CHECKED_FILES, *SECRET_FILES, *WRITTEN, REFERENCE, *CHART_SETS, *LOCAL_SETTINGS}
    assert file_settings() <= handled


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", [*START_FILES, *CHECKED_FILES])
def test_text_of_a_file_goes_into_the_values(path: str, here: Path) -> None:
    (here / "own.txt").write_text("text of it")
    section, *others = path.split(".")
    content: Any = "own.txt"
    for name in reversed(others):
        content = {name: content}
    tree = {section: dict(content)}
    (text,) = helm_files.carry_files(tree).items()
    named: Any = tree[section]
    for name in others:
        named = named[name]
    assert text == (named.removeprefix(f"{FOLDER}/"), "text of it")
    assert named.endswith(".txt")
    # Another text of a file that is read once is another setting.
    (here / "own.txt").write_text("another text")
    again = {section: dict(content)}
    assert (text[0] in helm_files.carry_files(again)) == (path in CHECKED_FILES)


def test_waivers_of_a_file_reach_the_values(here: Path) -> None:
    (here / "waivers.yaml").write_text(
        "- {rule: guard.kind, by: Head of Safety, reason: patterns are enough here, until: 2027-01-31}\n"
    )
    values = values_of({"license": {"waivers_file": "waivers.yaml"}})
    assert values["settings"]["license"]["waivers_file"] == "/etc/hybridserve-files/license.waivers_file.yaml"
    assert "patterns are enough" in values["files"]["license.waivers_file.yaml"]


def test_keys_come_from_secrets(here: Path) -> None:
    tree = {
        "access": {"keys_file": "keys.txt", "limits_url": "redis://limits:6379/0", "limits_password_file": "password"},
        "guard": GUARD | {"url": "https://guard.example/v1", "api_key_file": "guard-key"},
    }
    values = values_of(tree)
    assert values["auth"] == {"existingSecret": "hybridserve-keys", "limitsSecret": "hybridserve-limits"}
    assert values["guard"] == {"keySecret": "hybridserve-guard-key"}
    assert "file" not in json.dumps([values["settings"]["access"], values["settings"]["guard"]])
    assert [line.partition(": ")[2] for line in needs_of(tree) if "secret" in line] == [
        "kubectl -n NAMESPACE create secret generic hybridserve-keys --from-file=keys=keys.txt",
        "kubectl -n NAMESPACE create secret generic hybridserve-limits --from-file=password=password",
        "kubectl -n NAMESPACE create secret generic hybridserve-guard-key --from-file=key=guard-key",
    ]


def test_license_copies_of_the_bundle_are_kept(here: Path) -> None:
    (here / "bundle" / "licenses").mkdir(parents=True)
    (here / "bundle" / "licenses" / "a.txt").write_text("the text")
    (here / "bundle" / "NOTICE").write_text("an old one")
    files = values_of({"license": {"bundle": "bundle"}})["notice"]["files"]
    assert files["licenses-a.txt"] == "the text"
    assert files["NOTICE"] == values_of()["notice"]["files"]["NOTICE"]


def test_a_bundle_takes_nothing_but_notices(here: Path) -> None:
    bundle = here / "bundle"
    bundle.mkdir()
    (bundle / "LICENSE (NVIDIA).txt").write_text("the text")
    (bundle / ".env").write_text("TOKEN=secret")
    (bundle / "keys.yaml").write_text("secret")
    (bundle / "logo.png").write_bytes(b"\x89PNG")
    assert helm_files.bundle_files(bundle) == {"LICENSE--NVIDIA-.txt": "the text"}
    (bundle / "LICENSE--NVIDIA-.txt").write_text("another")
    with pytest.raises(ConfigError, match="two files get the name"):
        helm_files.bundle_files(bundle)
    (here / "keys.txt").write_text("secret")
    with pytest.raises(ConfigError, match="the working folder"):
        helm_files.bundle_files(Path())


def test_keys_that_nothing_uses_get_no_secret(here: Path) -> None:
    """The chart refuses a Secret for a guard without an endpoint, or for limits without a server."""
    tree = {"guard": {"kind": "rules", "api_key_file": "key"}, "access": {"limits_password_file": "password"}}
    values = values_of(tree)
    assert "auth" not in values
    assert "guard" not in values
    assert "_file" not in json.dumps([values["settings"].get("access"), values["settings"]["guard"]])


def test_evidence_is_collected_with_the_settings_of_the_release(here: Path) -> None:
    (here / "record.json").write_text(json.dumps(seal_record({"finished": "2026-11-27"})))
    assert any(
        "guard.evidence_file: collect it" in line for line in needs_of({"guard": {"evidence_file": "record.json"}})
    )


def test_the_pool_of_a_calibration_file_is_named(here: Path) -> None:
    """The plan used it, and no pod has the file."""
    planned = plan_settings(Settings.model_validate(NANO)).advice.plan
    keys = {"model": planned.deployment.model, "accelerator": "l40s", "settings": profiled_settings(planned.deployment)}
    bytes_of = 1200 * planned.layout.bytes_per_block
    (here / "pools.yaml").write_text(record("", **keys, kv_bytes=bytes_of, read=date(2026, 11, 27)))
    tree = {"accelerator": {"name": "l40s", "calibration": "pools.yaml"}}
    assert needs_of(tree) == [
        f"--set engine.kv_cache_memory_bytes={bytes_of}: the cache pool in pools.yaml, a file that no pod has"
    ]
    assert "calibration" not in values_of(tree)["settings"]["accelerator"]
    assert needs_of(tree | {"engine": {"kv_cache_memory_bytes": bytes_of}}) == []


def test_a_reference_becomes_the_charts(here: Path) -> None:
    text = Reference({"model": "own"}, (Entry(Probe("short-1", "short", (5, 6)), (1,), (((1, -0.1),),)),), {}).to_json()
    (here / "reference.json").write_text(text)
    values = values_of({"verify": {"at_start": True, "reference_file": "reference.json"}})
    assert values["verify"] == {"reference": text}
    assert values["settings"]["verify"] == {"at_start": True}
    assert "verify" not in values_of({"verify": {"reference_file": "reference.json"}})["settings"]
    (here / "reference.json").write_text("")
    with pytest.raises(ConfigError, match="is not JSON"):
        values_of({"verify": {"at_start": True, "reference_file": "reference.json"}})


def test_a_path_in_the_pod_stays_and_is_named(here: Path) -> None:
    tree = {
        "guard": {"kind": "rules", "rules_file": "/etc/guard-rules/rules.yaml"},
        "license": {"about": "/srv/about.md"},
    }
    values = values_of(tree)
    assert "files" not in values
    assert values["settings"]["guard"]["rules_file"] == "/etc/guard-rules/rules.yaml"
    assert needs_of(tree) == [
        "extraVolumes, extraVolumeMounts: a volume that has settings.guard.rules_file: /etc/guard-rules/rules.yaml",
        "extraVolumes, extraVolumeMounts: a volume that has settings.license.about: /srv/about.md",
    ]


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"guard": {"kind": "rules", "rules_file": "rules.yaml"}}, "guard.rules_file"),
        ({"verify": {"record_file": "reference.json"}}, "verify.record_file"),
        ({"engine": {"extra_args": {"enable_lora": True, "lora_modules": ["a=./adapter"]}}},
         "engine.extra_args.lora_modules"),
    ],
    ids=["missing", "written", "adapter"],
)  # fmt: skip
def test_a_path_that_is_none_in_a_pod_is_refused(tree: dict[str, Any], where: str, here: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        values_of(tree)
    assert refused.value.where == where


def test_files_that_no_config_map_holds_are_refused(here: Path) -> None:
    (here / "rules.yaml").write_text("a" * 800_000)
    with pytest.raises(ConfigError, match="ConfigMap holds 1 MiB"):
        values_of({"guard": {"kind": "rules", "rules_file": "rules.yaml"}})


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
