"""`hybridserve --install-completion SHELL` installs the completion of the shell that is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridserve.cli.app import main


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("zsh", ".zfunc/_hybridserve"),
        ("bash", ".bash_completions/hybridserve.sh"),
        ("fish", ".config/fish/completions/hybridserve.fish"),
    ],
)
def test_named_shell_gets_its_completion(
    shell: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    main(["--install-completion", shell])
    said = capsys.readouterr().out
    assert f"{shell} completion installed in {tmp_path / file}" in said
    assert f"here after `exec {shell}`" in said
    assert "_HYBRIDSERVE_COMPLETE" in (tmp_path / file).read_text()
    main(["--show-completion", shell])
    assert f"complete_{shell}" in capsys.readouterr().out


def test_running_shell_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "zsh")
    main(["--install-completion"])
    assert "here after `exec zsh`" in capsys.readouterr().out
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main(["--show-completion"])
    assert ended.value.code == 2
    assert "--show-completion bash" in capsys.readouterr().err


def test_unknown_shell_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["--install-completion", "csh"])
    assert ended.value.code == 2
    assert not list(tmp_path.iterdir())
