"""Mistakes that the option parser finds: three parts, exit code 2, JSON where it is asked for."""

from __future__ import annotations

import json

import pytest

from hybridserve.cli import main


@pytest.mark.parametrize(
    ("words", "where", "what", "fix"),
    [
        ("plan --promt 3000", "--promt", "is no option of `hybridserve plan`", "did you mean --prompt?"),
        ("plan --zzz", "--zzz", "is no option of `hybridserve plan`", "`hybridserve plan --help`"),
        ("plan --memory-gib 48GB", "--memory-gib", "'48GB' is not a valid number", "`hybridserve plan --help`"),
        ("plan --gpu", "--gpu", "requires an argument", "`hybridserve plan --help`"),
        ("notice", "DIR", "is missing", "`hybridserve notice --help`"),
        ("render helm --mode x", "--mode", "'standalone', 'rayservice'", "`hybridserve render helm --help`"),
        ("upgrade", "hybridserve", "No such command 'upgrade'", "`hybridserve --help`"),
        ("pln", "hybridserve", "Did you mean plan", "`hybridserve --help`"),
        ("config shwo", "hybridserve config", "No such command 'shwo'", "`hybridserve config --help`"),
        ("doctor more", "hybridserve doctor", "more", "`hybridserve doctor --help`"),
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
