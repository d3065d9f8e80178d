"""Mistakes that the option parser finds: three parts, exit code 2, JSON where it is asked for."""

from __future__ import annotations

import importlib
import json

import pytest
from typer.main import get_command as click_command

from hybridserve.cli import main
from hybridserve.cli.app import VERBS
from hybridserve.cli.options import PLAN_OPTIONS
from hybridserve.settings import Settings


@pytest.mark.parametrize(
    ("words", "where", "what", "fix"),
    [
        ("plan --promt 3000", "--promt", "is no option of `hybridserve plan`", "did you mean --prompt?"),
        ("plan --zzz", "--zzz", "is no option of `hybridserve plan`", "`hybridserve plan --help`"),
        (
            "plan --memory-gib 48GB",
            "--memory-gib",
            "'48GB' is not a number",
            "write 44.7; `hybridserve plan --help`",
        ),
        ("plan --memory-gib 48GiB", "--memory-gib", "'48GiB' is not a number", "write 48; `hybridserve plan --help`"),
        ("plan --memory-gib much", "--memory-gib", "'much' is not a number", "write a number; `hybridserve plan"),
        ("plan --set accelerator.memory_gib=48GB", "accelerator.memory_gib", "'48GB' is not", "a number: write 44.7;"),
        ("plan --context 64k", "--context", "'64k' is not a whole number", "write 65536; `hybridserve plan --help`"),
        ("plan --context 8,000", "--context", "'8,000' is not", "write 8000, without the comma; `hybridserve plan"),
        ("plan --kv-bytes 3GiB", "--kv-bytes", "'3GiB' is not", "write 3221225472; `hybridserve plan --help`"),
        ("plan --kv-bytes 3GB", "--kv-bytes", "'3GB' is not", "write a whole number; `hybridserve plan --help` lists"),
        (
            "check --date tomorrow",
            "--date",
            "'tomorrow' is not a date",
            "write a date, such as 2026-11-28; `hybridserve",
        ),
        ("plan --context long", "--context", "'long' is not", "`hybridserve plan --help` lists"),
        ("plan --lengths 8k,64k", "--lengths", "is not a list of token counts", "write 8192,65536"),
        (
            "plan --set engine.max_model_len=64k",
            "engine.max_model_len",
            "'64k' is not",
            "a whole number: write 65536;",
        ),
        ("plan --gpu", "--gpu", "requires an argument", "`hybridserve plan --help`"),
        ("notice", "DIR", "is missing", "`hybridserve notice --help`"),
        ("render helm --mode x", "--mode", "'standalone', 'rayservice'", "`hybridserve render helm --help`"),
        ("upgrade", "hybridserve", "No such command 'upgrade'", "`hybridserve --help`"),
        ("pln", "hybridserve", "Did you mean plan", "`hybridserve --help`"),
        ("config shwo", "hybridserve config", "No such command 'shwo'", "`hybridserve config --help`"),
        ("doctor more", "hybridserve doctor", "more", "`hybridserve doctor --help`"),
        (
            "init demo --utilization 0.8",
            "--utilization",
            "`hybridserve init`",
            "--set engine.gpu_memory_utilization=VALUE",
        ),
        ("render helm demo --tp=2", "--tp", "`hybridserve render helm`", "--set engine.tensor_parallel_size=VALUE"),
        ("render helm demo --goal latency", "--goal", "is no option", "`hybridserve plan --goal`"),
        ("explain --licenses gemma", "--licenses", "gemma would not be used", "hybridserve explain gemma"),
        ("--nothing", "--nothing", "is no option of `hybridserve`", "`hybridserve --help`"),
    ],
)
def test_a_mistake_has_three_parts(
    words: str, where: str, what: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert stopped.value.code == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == f"error: {where}"
    assert second.startswith("  what: ")
    assert what in second
    assert third.startswith("  fix:  ")
    assert fix in third


def test_options_of_plan_set_what_they_say() -> None:
    settings = Settings()
    assert all(hasattr(getattr(settings, section), key) for section, _, key in map(_parts, PLAN_OPTIONS.values()))


def _parts(path: str) -> tuple[str, str, str]:
    return path.partition(".")


@pytest.mark.parametrize("verb", VERBS)
def test_the_completion_is_an_option_of_the_root_only(verb: str) -> None:
    command = click_command(importlib.import_module(f"hybridserve.cli.{verb}").app)
    assert not [param for param in command.params if "--install-completion" in param.opts]


def test_a_mistake_with_json_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--promt", "3000", "--json"])
    said = capsys.readouterr()
    assert json.loads(said.out)["where"] == "--promt"
    assert said.err == ""


@pytest.mark.parametrize(("words", "usage"), [([], "Usage: hybridserve"), (["render"], "Usage: hybridserve render")])
def test_a_group_without_a_verb_prints_its_help(
    words: list[str], usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    said = capsys.readouterr()
    assert (said.out + said.err).startswith(usage)
