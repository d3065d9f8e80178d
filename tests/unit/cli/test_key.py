"""`hybridserve key` makes no key that would not work."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridserve.cli import main


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["key", *argv])
    return int(ended.value.code or 0)


def test_a_day_that_is_past_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    assert run("new", "alice", "--expires", "2020-01-01", "--file", str(file)) == 2
    out, err = capsys.readouterr()
    assert (out, file.exists()) == ("", False)
    assert err.startswith("error: --expires\n  what: 2020-01-01 is past")


def test_a_name_that_exists_is_refused_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not by the number of the line that would have been added."""
    file = tmp_path / "keys"
    assert run("new", "alice", "--expires", "2999-12-31", "--file", str(file)) == 0
    before = file.read_text()
    capsys.readouterr()
    assert run("new", "alice", "--file", str(file)) == 2
    out, err = capsys.readouterr()
    assert (out, file.read_text()) == ("", before)
    assert err.startswith(f"error: NAME\n  what: {file} has a key alice already")
