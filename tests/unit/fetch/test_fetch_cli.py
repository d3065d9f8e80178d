"""The `hybridserve fetch` command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from hybridserve.cli import main
from support.fake_hub import COMMIT, REPOSITORY, FakeHub


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["fetch", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def test_fetch_then_verify_offline(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (REPOSITORY, "--revision", COMMIT, "--cache", str(tmp_path))
    code, out, err = run(capsys, *arguments, "--mirror", hub.url)
    assert code == 0
    assert "all checksums match" in out
    assert f"--set model.revision={COMMIT}" in out
    assert "model.safetensors: 2,853,632 bytes, sha256" in err
    result = json.loads(run(capsys, *arguments, "--offline", "--json")[1])
    assert (result["repository"], result["revision"], result["downloaded_bytes"]) == (REPOSITORY, COMMIT, 0)
    assert Path(result["folder"], "config.json").exists()


def test_json_is_the_only_output(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (REPOSITORY, "--revision", COMMIT, "--to", str(tmp_path), "--mirror", hub.url, "--json")
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert json.loads(out)["left_out"] == ["pytorch_model.bin"]


def test_environment_sets_cache_mirror_and_token(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.token = "secret"
    assert run(capsys, REPOSITORY, "--revision", COMMIT)[0] == 0
    assert (tmp_path / "hub/models--hybridserve--demo-model/snapshots" / COMMIT / "config.json").exists()


def test_token_file(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.token = "secret"
    arguments = (REPOSITORY, "--revision", COMMIT, "--to", str(tmp_path / "to"), "--mirror", hub.url)
    token = tmp_path / "token"
    code, _, err = run(capsys, *arguments, "--token-file", str(token))
    assert (code, "cannot be read" in err) == (2, True)
    token.write_text("secret\n")
    assert run(capsys, *arguments, "--token-file", str(token))[0] == 0


def test_branch_is_refused_with_its_commit(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((REPOSITORY,), (REPOSITORY, "--revision", "main")):
        code, _, err = run(capsys, *arguments, "--mirror", hub.url)
        assert code == 2
        assert f"main is at {COMMIT}" in err
        assert f"set --revision {COMMIT}" in err
        assert err.count("\n") == 3


def test_a_hub_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise a user who was sent here for the commit reads only that none is pinned."""
    code, _, err = run(capsys, REPOSITORY, "--mirror", "http://127.0.0.1:9")
    assert code == 2
    assert "the one of main is not known: http://127.0.0.1:9 cannot be reached" in err
    assert f"fix:  run `hybridserve fetch {REPOSITORY} --revision main` where a hub or mirror" in err
    assert err.count("\n") == 3


def test_an_unknown_branch_or_repository_is_the_error(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("example/absent",), (REPOSITORY, "--revision", "absent")):
        code, _, err = run(capsys, *arguments, "--mirror", hub.url)
        assert (code, "is not known" in err) == (2, False), err


def test_killed_download_resumes(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL leaves the partial file; no snapshot is visible before it is complete; the next run requests the rest."""
    arguments = (REPOSITORY, "--revision", COMMIT, "--cache", str(tmp_path), "--mirror", hub.url)
    hub.stall["model.safetensors"] = 1_500_000
    program = (
        "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 100_000\n"
        "from hybridserve.cli import main; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", program, "fetch", *arguments])
    try:
        deadline = time.monotonic() + 120
        while not any(file.stat().st_size > 1_000_000 for file in tmp_path.rglob("*.incomplete")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not list(tmp_path.rglob("snapshots"))
    size = max(file.stat().st_size for file in tmp_path.rglob("*.incomplete"))
    hub.stall.clear()
    hub.resume.set()
    hub.requests.clear()
    assert run(capsys, *arguments)[0] == 0
    assert hub.ranges("model.safetensors") == [f"bytes={size}-"]


def test_catalog_model_uses_the_commit_of_the_reviewed_license(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hybridserve.catalog.licenses import model_license

    known = model_license("nemotron-nano-9b-v2")
    assert known is not None
    assert known.revision is not None
    code, _, err = run(capsys, "nemotron-nano-9b-v2", "--offline", "--cache", str(tmp_path))
    assert code == 2
    assert f"{known.repository} at {known.revision[:12]} was never fetched here" in err


def test_packaged_model_needs_no_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "demo") == (0, "demo comes with this package: nothing to fetch\n", "")
    assert json.loads(run(capsys, "demo", "--json")[1])["files"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nemotron-nano-9b-v3",), "did you mean"),
        ((REPOSITORY, "--mirror", "ftp://mirror"), "is not an http or https URL"),
        ((REPOSITORY, "--cache", "a", "--to", "b"), "cannot be combined with --cache"),
        ((REPOSITORY, "--offline"), "--offline asks no hub"),
        ((".",), "no such file"),
    ],
)
def test_invalid_arguments_print_three_lines(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 3
