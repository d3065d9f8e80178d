"""The command `hybridserve config`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from hybridserve.cli import main
from hybridserve.settings import Settings, load
from hybridserve.settings.schema import json_schema

HYBRIDSERVE = Path(sys.executable).parent / "hybridserve"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HYBRIDSERVE), *words], capture_output=True, text=True, timeout=60)


def test_config_show_prints_values_and_sources() -> None:
    said = run("config", "show", "--sources", "--set", "engine.max_num_seqs=8")
    assert said.returncode == 0
    lines = {line.split()[0]: line.split()[1:] for line in said.stdout.splitlines()}
    assert lines["engine.max_num_seqs"] == ["8", "flag", "--set"]
    assert lines["server.port"] == ["8000", "default"]
    assert set(lines) == set(load(environ={}).sources)


def test_config_show_json_round_trips() -> None:
    said = run("config", "show", "--json")
    assert Settings.model_validate(json.loads(said.stdout)) == load(environ={}).settings


def test_error_is_three_lines_and_exit_code_2() -> None:
    said = run("config", "show", "--set", "engine.max_num_seq=8")
    assert said.returncode == 2
    assert said.stdout == ""
    assert said.stderr.splitlines() == [
        "error: engine.max_num_seq",
        "  what: is not a setting",
        "  fix:  did you mean engine.max_num_seqs?; it was set by --set",
    ]


@pytest.mark.parametrize(
    ("words", "where", "source"),
    [
        (["plan", "--gpu", "L40"], "accelerator.name", "--gpu"),
        (["plan", "nemotron-9b", "--gpu", "a10g"], "model.id", "the argument MODEL"),
        (["render", "vllm", "nemotron-9b", "--gpu", "a10g"], "model.id", "the argument MODEL"),
        (["plan", "--gpu", "cpu", "--utilization", "92"], "engine.gpu_memory_utilization", "--utilization"),
        (["check", "--set", "accelerator.name=L40"], "accelerator.name", "--set"),
    ],
)
def test_a_wrong_setting_names_the_option_that_was_typed(
    words: list[str], where: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    first, _, fix = capsys.readouterr().err.splitlines()
    assert first == f"error: {where}"
    assert fix.endswith(f"; it was set by {source}")


def test_all_faults_are_printed_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "typo.yaml"
    file.write_text("acelerator: {name: h100}\nengine: {max_num_seqs: many}\n")
    for words in (["config", "show", "-c", str(file)], ["config", "show", "-c", str(file), "--json"]):
        with pytest.raises(SystemExit):
            main(words)
    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if line.startswith("error")] == [
        "error: engine.max_num_seqs",
        "error: acelerator",
    ]
    assert f"it was set by file {file}, line 1" in said.err
    document = json.loads(said.out)
    assert document["others"][0]["where"] == "acelerator"


def test_schema_describes_every_field_and_accepts_the_defaults() -> None:
    schema = json.loads(run("config", "schema").stdout)
    assert schema == json_schema()
    for name, section in schema["$defs"].items():
        for field, described in section.get("properties", {}).items():
            assert described.get("description"), f"{name}.{field} has no docstring"
    jsonschema.validate(load(environ={}).settings.model_dump(mode="json"), schema)
