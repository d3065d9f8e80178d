"""`hybridserve fetch` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybridserve.cli import main
from support.fake_hub import COMMIT, REPOSITORY, Running


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["fetch", *words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


def test_fetch_then_offline(hub_server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (REPOSITORY, "--revision", COMMIT, "--cache", str(tmp_path))
    code, out, err = run(capsys, *asked, "--mirror", hub_server.url)
    assert code == 0
    assert "every checksum right" in out
    assert f"--set model.revision={COMMIT}" in out
    assert "model.safetensors: 2,853,632 bytes, sha256" in err
    told = json.loads(run(capsys, *asked, "--offline", "--json")[1])
    assert (told["repository"], told["revision"], told["downloaded_bytes"]) == (REPOSITORY, COMMIT, 0)
    assert Path(told["folder"], "config.json").exists()


def test_json_is_all_that_is_printed(hub_server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (REPOSITORY, "--revision", COMMIT, "--to", str(tmp_path), "--mirror", hub_server.url, "--json")
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert json.loads(out)["left_out"] == ["pytorch_model.bin"]


def test_the_cache_and_the_mirror_of_the_environment(
    hub_server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", hub_server.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub_server.faults.token = "secret"
    assert run(capsys, REPOSITORY, "--revision", COMMIT)[0] == 0
    assert (tmp_path / "home/hub/models--hybridserve--demo-model/snapshots" / COMMIT / "config.json").exists()


def test_a_token_file(hub_server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub_server.faults.token = "secret"
    words = (REPOSITORY, "--revision", COMMIT, "--to", str(tmp_path / "to"), "--mirror", hub_server.url)
    token = tmp_path / "token"
    code, _, err = run(capsys, *words, "--token-file", str(token))
    assert (code, "cannot be read" in err) == (2, True)
    token.write_text("secret\n")
    assert run(capsys, *words, "--token-file", str(token))[0] == 0


def test_a_branch_is_refused_with_the_commit_it_is_at(hub_server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((REPOSITORY,), (REPOSITORY, "--revision", "main")):
        code, _, err = run(capsys, *words, "--mirror", hub_server.url)
        assert code == 2
        assert f"give --revision {COMMIT}" in err
        assert err.count("\n") == 3


def test_killed_in_the_middle_it_goes_on(
    hub_server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL leaves what came; nothing is visible before all of it is right, and the next run asks for the rest."""
    words = (REPOSITORY, "--revision", COMMIT, "--cache", str(tmp_path), "--mirror", hub_server.url)
    hub_server.faults.stall["model.safetensors"] = 1_500_000
    process = subprocess.Popen([sys.executable, "-c", "from hybridserve.cli import main; main()", "fetch", *words])
    try:
        deadline = time.monotonic() + 30
        while not any(file.stat().st_size > 1_000_000 for file in tmp_path.rglob("*.incomplete")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not list(tmp_path.rglob("snapshots"))
    kept = max(file.stat().st_size for file in tmp_path.rglob("*.incomplete"))
    hub_server.faults.stall.clear()
    hub_server.faults.resume.set()
    hub_server.asked.clear()
    assert run(capsys, *words)[0] == 0
    assert [wanted for path, wanted in hub_server.asked if path.endswith("model.safetensors")] == [f"bytes={kept}-"]


def test_a_model_of_the_catalogue_has_the_commit_whose_license_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hybridserve.catalog.licenses import model_license

    known = model_license("nemotron-nano-9b-v2")
    assert known is not None
    assert known.revision is not None
    code, _, err = run(capsys, "nemotron-nano-9b-v2", "--offline", "--cache", str(tmp_path))
    assert code == 2
    assert f"{known.repository} at {known.revision[:12]} was never fetched here" in err


def test_a_model_of_this_package_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "demo") == (0, "demo comes with this package: nothing to fetch\n", "")
    assert json.loads(run(capsys, "demo", "--json")[1])["files"] == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("nemotron-nano-9b-v3",), "did you mean"),
        ((REPOSITORY, "--mirror", "ftp://mirror"), "is not an http or https URL"),
        ((REPOSITORY, "--cache", "a", "--to", "b"), "is given together with --cache"),
        ((REPOSITORY, "--offline"), "give --revision COMMIT"),
        ((".",), "no such file"),
    ],
)
def test_bad_words_are_three_lines(words: tuple[str, ...], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2
    assert what in err
    assert err.count("\n") == 3
