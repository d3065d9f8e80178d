"""Downloads from a real HTTP server with the demo model's files."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from hybridserve.errors import ConfigError, EnvironmentFault, ServiceError
from hybridserve.fetch import downloader
from hybridserve.fetch.downloader import MARGIN_BYTES, Fetched, Hub, download_file, fetch, verify_offline
from hybridserve.fetch.files import RemoteFile, Store
from support.fake_hub import COMMIT, REPOSITORY, FakeHub, entry, running

WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


def run(hub: FakeHub, store: Store, **options: Any) -> Fetched:
    return fetch(Hub(hub.url), store, **options)


def cache(path: Path) -> Store:
    return Store(path, REPOSITORY, COMMIT)


def folder(path: Path) -> Store:
    return Store(path, REPOSITORY, COMMIT, plain=True)


def assert_complete(path: Path, hub: FakeHub) -> None:
    for name, content in hub.files.items():
        if name != "pytorch_model.bin":
            assert (path / name).read_bytes() == content, name


def test_huggingface_hub_finds_the_snapshot_offline(hub: FakeHub, tmp_path: Path) -> None:
    hub.page = 3
    fetched = run(hub, cache(tmp_path))
    assert_complete(fetched.folder, hub)
    assert fetched.left_out == ("pytorch_model.bin",)
    from huggingface_hub import snapshot_download

    found = snapshot_download(REPOSITORY, revision=COMMIT, cache_dir=tmp_path, local_files_only=True)
    assert Path(found) == fetched.folder
    hub.requests.clear()
    assert run(hub, cache(tmp_path)).downloaded_bytes == 0
    assert hub.downloads() == []


def test_plain_folder_has_the_files_of_the_repository(hub: FakeHub, tmp_path: Path) -> None:
    fetched = run(hub, folder(tmp_path / "weights"))
    assert fetched.folder == tmp_path / "weights"
    assert_complete(fetched.folder, hub)
    assert not list(tmp_path.rglob("*.incomplete"))


def test_broken_connection_resumes_in_the_same_run(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut[WEIGHTS] = [1_000_000, 500_000]
    assert_complete(run(hub, cache(tmp_path)).folder, hub)
    assert hub.ranges(WEIGHTS) == [None, "bytes=1000000-", "bytes=1500000-"]


def test_next_run_resumes_the_download(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut[WEIGHTS] = [1_000_000] + [0] * 10
    with pytest.raises(ServiceError, match=r"a new run resumes"):
        run(hub, cache(tmp_path))
    assert not (tmp_path / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots").exists()
    hub.cut.clear()
    hub.requests.clear()
    assert_complete(run(hub, cache(tmp_path)).folder, hub)
    assert hub.ranges(WEIGHTS) == ["bytes=1000000-"]


def test_server_without_ranges_restarts_the_file(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut[WEIGHTS] = [1_000_000]
    hub.no_ranges = True
    assert_complete(run(hub, cache(tmp_path)).folder, hub)


def test_server_errors_are_retried(hub: FakeHub, tmp_path: Path) -> None:
    hub.status["config.json"] = [503, 429, 500]
    assert_complete(run(hub, cache(tmp_path)).folder, hub)
    hub.status["config.json"] = [503] * 50
    hub.requests.clear()
    with pytest.raises(ServiceError, match=r"HTTP 503"):
        run(hub, folder(tmp_path / "other"))
    assert hub.downloads().count("config.json") == downloader.ATTEMPTS


@pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
def test_corrupt_download_is_refused_and_removed(path: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.flip.add(path)
    with pytest.raises(ServiceError, match=r"is corrupt"):
        run(hub, cache(tmp_path))
    assert not list(tmp_path.rglob("snapshots"))
    hub.flip.clear()
    assert_complete(run(hub, cache(tmp_path)).folder, hub)


def test_corrupt_partial_file_is_downloaded_from_the_start(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / f"{WEIGHTS}.incomplete").write_bytes(b"\0" * 1_000_000)
    assert_complete(run(hub, folder(tmp_path)).folder, hub)
    assert hub.ranges(WEIGHTS) == ["bytes=1000000-", None]


def test_damaged_file_is_downloaded_again(hub: FakeHub, tmp_path: Path) -> None:
    store = folder(tmp_path)
    run(hub, store)
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(EnvironmentFault, match=r"1 of \d+ files are missing or damaged: tokenizer\.json"):
        verify_offline(store)
    hub.requests.clear()
    assert_complete(run(hub, store).folder, hub)
    assert hub.downloads() == ["tokenizer.json"]


def test_wrong_sizes_are_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.longer.add("config.json")
    with pytest.raises(ServiceError, match=r"config\.json: the server sends more than"):
        run(hub, folder(tmp_path))
    assert not (tmp_path / "config.json").exists()
    size = len(hub.files["tokenizer.json"])
    hub.listing = [{"type": "file", "path": "tokenizer.json", "size": size + 7, "oid": "a" * 40}]
    with pytest.raises(ServiceError, match=rf"tokenizer\.json: .*should be of size {size + 7} but has size {size}"):
        run(hub, cache(tmp_path))


def test_disk_space_is_checked_first(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"needs 0\.00 GiB, 0\.25 GiB are free"):
        run(hub, folder(tmp_path), free=lambda _: MARGIN_BYTES)
    assert hub.downloads() == []
    fetched = run(hub, folder(tmp_path), free=lambda _: MARGIN_BYTES + 10 * 2**20)
    assert run(hub, folder(tmp_path), free=lambda _: 0).bytes == fetched.bytes


def test_full_disk_is_reported(hub: FakeHub, tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC."""
    listed = entry("config.json", hub.files["config.json"])
    file = RemoteFile("config.json", listed["size"], listed["oid"], "git")
    (tmp_path / "config.json.incomplete").symlink_to("/dev/full")
    with pytest.raises(EnvironmentFault, match=r"the disk is full at config\.json"):
        download_file(Hub(hub.url), REPOSITORY, COMMIT, file, tmp_path / "config.json", threading.Event())


def test_unwritable_folder_is_reported(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        run(hub, folder(tmp_path / "file" / "below"))


def test_concurrent_fetches_download_once(hub: FakeHub, tmp_path: Path) -> None:
    jobs = [threading.Thread(target=run, args=(hub, cache(tmp_path))) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    # One format is left out, an empty file needs no bytes.
    assert sorted(hub.downloads()) == sorted(set(hub.files) - {"pytorch_model.bin", "empty.txt"})


def test_offline_verifies_every_byte(hub: FakeHub, tmp_path: Path) -> None:
    store = cache(tmp_path)
    with pytest.raises(EnvironmentFault, match="was never fetched here"):
        verify_offline(store)
    fetched = run(hub, store)
    hub.requests.clear()
    assert verify_offline(store).folder == fetched.folder
    assert hub.requests == []
    blob = (fetched.folder / WEIGHTS).resolve()
    content = bytearray(blob.read_bytes())
    content[1_000_000] ^= 1
    blob.write_bytes(content)
    with pytest.raises(EnvironmentFault, match=r"1 of \d+ files are missing or damaged: model\.safetensors"):
        verify_offline(store)


def test_offline_refuses_an_invalid_record(hub: FakeHub, tmp_path: Path) -> None:
    store = folder(tmp_path)
    run(hub, store)
    record = json.loads(store.record.read_text())
    record["files"][0]["path"] = "../outside"
    store.record.write_text(json.dumps(record))
    with pytest.raises(EnvironmentFault, match="is not a valid record"):
        verify_offline(store)


def test_access_needs_the_token(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "secret"
    with pytest.raises(ConfigError, match=r"denies access \(HTTP 401\)"):
        run(hub, cache(tmp_path))
    assert fetch(Hub(hub.url, "secret"), cache(tmp_path)).files > 5


def test_token_is_not_sent_to_a_redirect_target(hub: FakeHub, tmp_path: Path) -> None:
    with running() as cdn:
        hub.token, hub.redirect = "secret", cdn.url
        assert_complete(fetch(Hub(hub.url, "secret"), cache(tmp_path)).folder, hub)
        assert set(hub.tokens) == {"Bearer secret"}
        assert set(cdn.tokens) == {None}


@pytest.mark.parametrize(
    ("repository", "commit", "message"),
    [(REPOSITORY, "f" * 40, "there is no commit f{40}"), ("nobody/nothing", COMMIT, "no such repository or revision")],
)
def test_unknown_repository_or_commit(repository: str, commit: str, message: str, hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        fetch(Hub(hub.url), Store(tmp_path, repository, commit, plain=True))


def test_unreachable_hub(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        fetch(Hub("http://127.0.0.1:9"), folder(tmp_path))
