"""`hybridserve init` writes a file from which the other commands work, and names what a person decides."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from hybridserve.cli import init, main
from hybridserve.cli.machine import Gpu
from hybridserve.settings import Settings

CASES = {
    "demo": ["demo"],
    "gpu": ["nemotron-nano-9b-v2", "--gpu", "a10g"],
    "quantized": ["nemotron-3-super-120b-a12b-fp8", "--gpu", "b200"],
    "two devices": ["nemotron-3-super-120b-a12b", "--gpu", "b200", "--set", "engine.tensor_parallel_size=2"],
    "generic": ["qwen3-8b", "--gpu", "generic", "--memory-gib", "24", "--compute-capability", "8.6"],
}

FALCON_H1 = {
    "architectures": ["FalconH1ForCausalLM"], "model_type": "falcon_h1", "dtype": "bfloat16", "hidden_size": 2560,
    "num_hidden_layers": 32, "num_attention_heads": 10, "num_key_value_heads": 2, "head_dim": 128,
    "intermediate_size": 10240, "vocab_size": 65536, "max_position_embeddings": 131072, "mamba_d_conv": 4,
    "mamba_d_ssm": 6144, "mamba_d_state": 256, "mamba_d_head": 64, "mamba_n_heads": 96, "mamba_n_groups": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", CASES)
def test_tour_works_from_the_file(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", *CASES[name]) == 0
    file = ["-c", "hybridserve.yaml"]
    assert run("plan", *file) == 0
    assert run("check", *file) == 0
    assert run("notice", "attribution", *file) == 0
    assert run("render", "vllm", *file) == 0
    assert run("render", "helm", *file) == 0
    capsys.readouterr()
    assert run("check", *file, "--profile", "production") == 1


@pytest.mark.parametrize("name", CASES)
def test_comments_are_valid_settings(name: str, folder: Path) -> None:
    """Without the number sign each commented line is a setting; only the engine's values differ then."""
    run("init", *CASES[name])
    text = Path("hybridserve.yaml").read_text()
    setting = re.compile(r"^(\s*)# ?(\s*(?:[a-z_]+:(?: |$)|- \{).*)$")
    active = "\n".join(setting.sub(r"\1\2", line) for line in text.splitlines())
    active = active.replace("COMMIT ", f"{'a' * 40} ")
    settings = Settings.model_validate(yaml.safe_load(active))
    assert settings.guard.kind == "model"
    assert settings.license.accepted[0].by == "YOUR NAME"
    assert settings.engine.max_model_len is not None
    assert str(settings.access.keys_file) == "keys.txt"


def test_decisions_are_those_of_the_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("init", "nemotron-nano-9b-v2", "--gpu", "a10g", "--json")
    decisions = json.loads(capsys.readouterr().out)["decisions"]
    assert run("check", "-c", "hybridserve.yaml", "--profile", "production", "--json") == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    open_ = {each["rule"] for each in findings if each["status"] in ("FAIL", "UNKNOWN") and each["severity"] == "error"}
    assert {line.partition(":")[0] for line in decisions} == open_
    assert {"license.accepted", "guard.input", "guard.output", "exposure.keys"} <= open_


@pytest.mark.parametrize(
    ("argv", "where", "what"),
    [
        ([], "MODEL", "is missing"),
        (["nemotron-nano-9b-v2"], "--gpu", "is missing"),
        (["nemotron-nano-9b", "--gpu", "a10g"], "model.id", "nemotron-nano-9b"),
        (["nemotron-nano-9b-v2", "--gpu", "a10gg"], "accelerator.name", "a10gg"),
        (["nemotron-3-super-120b-a12b", "--gpu", "a10g"], "accelerator.name", "GiB"),
        (["demo", "--out", "nowhere/hybridserve.yaml"], "nowhere", "cannot be written"),
    ],
)
def test_invalid_input_writes_nothing(
    argv: list[str], where: str, what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", *argv) == 2
    said = capsys.readouterr().err
    assert where in said.splitlines()[0]
    assert what in said
    assert not list(folder.iterdir())


def test_existing_file_is_kept_without_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("hybridserve.yaml").write_text("mine")
    assert run("init", "demo") == 2
    assert "add --force" in capsys.readouterr().err
    assert Path("hybridserve.yaml").read_text() == "mine"
    assert run("init", "demo", "--force") == 0
    assert "id: demo" in Path("hybridserve.yaml").read_text()


def test_environment_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDSERVE_SERVER__PORT", "1234")
    assert run("init", "demo") == 0
    assert "1234" not in Path("hybridserve.yaml").read_text()


def test_terminal_is_asked_until_the_answer_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["nemotron-nano-9b-v3", "nemotron-nano-9b-v2", ""])
    offered: list[str] = []

    def prompt(text: str, default: str) -> str:
        offered.append(f"{text} {default}")
        return next(answers) or default

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(init.typer, "prompt", prompt)
    monkeypatch.setattr(init, "gpus", lambda: [Gpu("NVIDIA L40S", 46068, "8.9")])
    assert run("init") == 0
    assert offered == ["Model nemotron-nano-9b-v2"] * 2 + ["GPU l40s"]
    assert "name: l40s" in Path("hybridserve.yaml").read_text()


def test_state_type_of_a_bare_config_is_what_the_plan_assumes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but config.json: the engine takes the type of the weights, which production refuses."""
    Path("bare").mkdir()
    Path("bare/config.json").write_text(json.dumps(FALCON_H1))
    with pytest.raises(SystemExit):
        main(["plan", "./bare", "--gpu", "l40s", "--json"])
    planned = json.loads(capsys.readouterr().out)
    dtype = next(flag["value"] for flag in planned["flags"] if flag["name"] == "mamba_ssm_cache_dtype")
    assert dtype == planned["cache"]["mamba_ssm_cache_dtype"] == "float32"
    assert run("init", "./bare", "--gpu", "l40s", "--prompt", "1024") == 0
    line = next(line for line in Path("hybridserve.yaml").read_text().splitlines() if "mamba_ssm" in line)
    assert line.strip().startswith("mamba_ssm_cache_dtype: float32    # vLLM 0.29.0 takes bfloat16 by itself")


@pytest.mark.parametrize("lengths", [(), ("--prompt", "1024", "--output", "512")])
@pytest.mark.parametrize("model", ["granite-4.0-h-small", "qwen3-next-80b-a3b", "jamba-1.5-mini", "lfm2-8b-a1b"])
def test_no_decision_is_left_about_the_type_of_the_state(
    folder: Path, capsys: pytest.CaptureFixture[str], model: str, lengths: tuple[str, ...]
) -> None:
    """The engine's own type is one that production refuses: no person decided it."""
    assert run("init", model, "--gpu", "b200", *lengths, "--set", "engine.tensor_parallel_size=2", "--json") == 0
    decisions = json.loads(capsys.readouterr().out)["decisions"]
    assert decisions
    assert not any("ssm-dtype" in line for line in decisions)
    assert run("plan", "-c", "hybridserve.yaml", *lengths, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert not plan["capacity"]["asked"] or plan["capacity"]["asked"]["fits"]


def test_the_texts_of_two_licenses_are_one_sentence(folder: Path) -> None:
    assert run("init", "nemotron-nano-9b-v2", "--gpu", "l40s") == 0
    lines = [line.strip() for line in Path("hybridserve.yaml").read_text().splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("# Read http"))
    assert lines[first].endswith("(nemotron-nano-9b-v2)")
    assert lines[first + 1].startswith("# and http")
    assert lines[first + 1].endswith("Qwen3Guard-Gen-4B), then:")
    assert lines[first + 2] == "# accepted:"


def test_next_plan_has_the_same_lengths(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ["--prompt", "1024/4096", "--output", "512/2048"]
    assert run("init", "nemotron-nano-9b-v2", "--gpu", "l40s", *lengths) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next"))
    assert run(*said.split()[2:], "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["workload"]["total"] == [1536, 6144]
    assert plan["capacity"]["asked"]["fits"]


def test_options_that_plan_has_too_set_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["nemotron-nano-9b-v2", "--gpu", "l40s", "--context", "16384", "--concurrency", "8"]
    assert run("init", *given) == 0
    engine = yaml.safe_load(Path("hybridserve.yaml").read_text())["engine"]
    assert (engine["max_model_len"], engine["max_num_seqs"]) == (16384, 8)
    assert run("init", *given[:-4], "--context", "0", "--force") == 2
    assert "error: engine.max_model_len" in (said := capsys.readouterr().err)
    assert "it was set by --context" in said


def test_requests_longer_than_the_context_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "nemotron-nano-9b-v2", "--gpu", "l40s", "--prompt", "200000") == 0
    assert "warning: requests of 200,512 tokens" in capsys.readouterr().out
    assert run("plan", "nemotron-nano-9b-v2", "--gpu", "l40s", "--prompt", "200000", "--json") == 0
    assert any("longer than max_model_len, 131,072" in line for line in json.loads(capsys.readouterr().out)["warnings"])


def test_nothing_is_left_to_what_auto_means_in_a_release(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("init", "nemotron-nano-9b-v2", "--gpu", "l40s", "--concurrency", "40")
    text = Path("hybridserve.yaml").read_text()
    engine = yaml.safe_load(text)["engine"]
    assert (engine["dtype"], engine["mamba_cache_dtype"], engine["kv_cache_dtype"]) == ("bfloat16",) * 3
    assert engine["max_num_seqs"] == 40
    assert "# prefix_match_unit: 32    # to decide:" in text
    capsys.readouterr()
    run("check", "-c", "hybridserve.yaml", "--json")
    findings = json.loads(capsys.readouterr().out)["findings"]
    warnings = {found["rule"] for found in findings if (found["status"], found["severity"]) == ("FAIL", "warning")}
    assert warnings == set(), "what the plan leaves to decide is no fault of the file"
    (note,) = [found for found in findings if (found["status"], found["severity"]) == ("FAIL", "note")]
    assert note["rule"] == "engine.prefix-cache-granularity"


@pytest.mark.parametrize(
    ("model", "owners"),
    [
        ("nemotron-nano-9b-v2", ["nemotron-nano-9b-v2", "the guard Qwen/Qwen3Guard-Gen-4B"]),
        ("qwen3-8b", ["qwen3-8b and of the guard Qwen/Qwen3Guard-Gen-4B"]),
    ],
)
def test_the_license_of_the_guard_is_accepted_too(model: str, owners: list[str], folder: Path) -> None:
    run("init", model, "--gpu", "l40s")
    lines = [line for line in Path("hybridserve.yaml").read_text().splitlines() if "by: YOUR NAME" in line]
    assert [line.partition("# of ")[2] for line in lines] == owners


def test_more_requests_than_fit_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "nemotron-nano-9b-v2", "--gpu", "a10g", "--concurrency", "40") == 0
    said = capsys.readouterr().out
    assert "warning: 40 requests at once (engine.max_num_seqs) do not fit at 8,192 tokens each: " in said
    assert run("init", "nemotron-nano-9b-v2", "--gpu", "a10g", "--concurrency", "2", "--force") == 0
    assert "warning" not in capsys.readouterr().out
