"""Files that the settings name, in `hybridserve render helm`: carried, mounted from Secrets, or refused."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hybridserve.cli import helm_files
from hybridserve.cli.helm_files import CHECKED_FILES, FOLDER, REFERENCE, SECRET_FILES, START_FILES, WRITTEN
from hybridserve.cli.helm_values import CHART_SETS, LOCAL_SETTINGS
from hybridserve.compliance.evidence import seal_record
from hybridserve.errors import ConfigError
from hybridserve.planning.deployment import profiled_settings
from hybridserve.planning.memory.profile import record
from hybridserve.planning.resolve import plan_settings
from hybridserve.settings import Settings
from hybridserve.verify.reference import Entry, Probe, Reference
from support.helm_render import GUARD, NANO, needs_of, values_of


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
        f"hybridserve render helm --set engine.kv_cache_memory_bytes={bytes_of}: the cache pool in pools.yaml, a file "
        "that no pod has"
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
