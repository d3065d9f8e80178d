"""The whole errand against a real HTTP server with the demo model's files."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from hybridserve.errors import ConfigError, EnvironmentFault, ServiceError
from hybridserve.fetch import download as downloading
from hybridserve.fetch.downloader import MARGIN_BYTES, Fetched, Watcher, check_offline, fetch
from hybridserve.fetch.hub import Hub
from hybridserve.fetch.listing import parse_listing
from hybridserve.fetch.store import CacheStore, FolderStore, Store
from support.fake_hub import COMMIT, REPOSITORY, Running, entry

WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries are short: what is tested is what happens after them."""
    download = downloading.download
    monkeypatch.setattr(
        "hybridserve.fetch.downloader.download",
        lambda *words: download(*words, sleep=lambda _: None),
    )


def fetched(server: Running, store: Store, **options: object) -> Fetched:
    hub = Hub(server.url)
    try:
        return fetch(hub, REPOSITORY, COMMIT, store, **options)  # type: ignore[arg-type]
    finally:
        hub.close()


def cache(folder: Path) -> CacheStore:
    return CacheStore(folder, REPOSITORY, COMMIT)


def assert_whole(folder: Path, server: Running) -> None:
    for path, content in server.files.items():
        if path != "pytorch_model.bin":
            assert (folder / path).read_bytes() == content, path


class Counting(Watcher):
    def __init__(self) -> None:
        self.total = self.came = 0
        self.whole: list[str] = []

    def begins(self, missing: int, present: int, total_bytes: int) -> None:
        self.total = total_bytes

    def advance(self, file: object, count: int) -> None:
        self.came += count

    def done(self, file: object) -> None:
        self.whole.append(file.path)  # type: ignore[attr-defined]


def test_the_hub_library_finds_it_offline(hub_server: Running, tmp_path: Path) -> None:
    done = fetched(hub_server, cache(tmp_path))
    assert_whole(done.folder, hub_server)
    assert done.left_out == ("pytorch_model.bin",)
    from huggingface_hub import snapshot_download

    found = snapshot_download(REPOSITORY, revision=COMMIT, cache_dir=tmp_path, local_files_only=True)
    assert Path(found) == done.folder


def test_a_second_run_downloads_nothing(hub_server: Running, tmp_path: Path) -> None:
    fetched(hub_server, cache(tmp_path))
    hub_server.asked.clear()
    assert fetched(hub_server, cache(tmp_path)).downloaded_bytes == 0
    assert not [path for path, _ in hub_server.asked if "/resolve/" in path]


def test_a_plain_folder_is_a_model(hub_server: Running, tmp_path: Path) -> None:
    done = fetched(hub_server, FolderStore(tmp_path / "weights"))
    assert done.folder == tmp_path / "weights"
    assert_whole(done.folder, hub_server)
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_listing_of_many_pages_is_read_from_the_mirror(hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.page = 3
    assert_whole(fetched(hub_server, cache(tmp_path)).folder, hub_server)


def test_a_broken_connection_is_taken_up_where_it_broke(hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.cut[WEIGHTS] = [1_000_000, 500_000]
    watcher = Counting()
    assert_whole(fetched(hub_server, cache(tmp_path), watcher=watcher).folder, hub_server)
    ranges = [wanted for path, wanted in hub_server.asked if path.endswith(WEIGHTS)]
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0 for wanted in ranges]
    assert starts == [0, 1_000_000, 1_500_000]
    assert watcher.came == watcher.total


def test_a_later_run_goes_on(hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.cut[WEIGHTS] = [1_000_000] + [0] * downloading.TRIES
    with pytest.raises(ServiceError, match=r"model\.safetensors broke off at 1,000,000 of 2,853,632 bytes"):
        fetched(hub_server, cache(tmp_path))
    assert not (tmp_path / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots").exists()
    hub_server.faults.cut.clear()
    hub_server.asked.clear()
    assert_whole(fetched(hub_server, cache(tmp_path)).folder, hub_server)
    assert [wanted for path, wanted in hub_server.asked if path.endswith(WEIGHTS)] == ["bytes=1000000-"]


def test_a_server_without_ranges_starts_again(hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.cut[WEIGHTS] = [1_000_000]
    hub_server.faults.no_ranges = True
    watcher = Counting()
    assert_whole(fetched(hub_server, cache(tmp_path), watcher=watcher).folder, hub_server)
    assert watcher.came == watcher.total


def test_a_busy_server_is_asked_again(hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.status["config.json"] = [503, 429, 500]
    assert_whole(fetched(hub_server, cache(tmp_path)).folder, hub_server)


def test_a_dead_server_is_given_up(hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.status["config.json"] = [503] * 50
    with pytest.raises(ServiceError, match=r"config\.json broke off at 0 .*HTTP 503"):
        fetched(hub_server, cache(tmp_path))
    assert hub_server.counts()[f"/{REPOSITORY}/resolve/{COMMIT}/config.json"] == downloading.TRIES


@pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
def test_corruption_is_found_and_leaves_nothing(path: str, hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.flip.add(path)
    with pytest.raises(ServiceError, match=r"is corrupt"):
        fetched(hub_server, cache(tmp_path))
    assert not list(tmp_path.rglob("snapshots"))
    hub_server.faults.flip.clear()
    assert_whole(fetched(hub_server, cache(tmp_path)).folder, hub_server)


def test_a_damaged_beginning_on_the_disk_is_thrown_away(hub_server: Running, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / f"{WEIGHTS}.incomplete").write_bytes(b"\0" * 1_000_000)
    watcher = Counting()
    assert_whole(fetched(hub_server, store, watcher=watcher).folder, hub_server)
    assert [wanted for path, wanted in hub_server.asked if path.endswith(WEIGHTS)] == ["bytes=1000000-", None]
    assert watcher.came == watcher.total


def test_a_damaged_file_on_the_disk_is_fetched_again(hub_server: Running, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    fetched(hub_server, store)
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(EnvironmentFault, match=r"1 of \d+ files are missing or damaged: tokenizer\.json"):
        check_offline(REPOSITORY, COMMIT, store)
    hub_server.asked.clear()
    assert_whole(fetched(hub_server, store).folder, hub_server)
    assert [path.rpartition("/")[2] for path, _ in hub_server.asked if "/resolve/" in path] == ["tokenizer.json"]


def test_a_wrong_size_is_refused_before_the_bytes(hub_server: Running, tmp_path: Path) -> None:
    whole = hub_server.files["tokenizer.json"]
    hub_server.faults.listing = [{"type": "file", "path": "tokenizer.json", "size": len(whole) + 7, "oid": "a" * 40}]
    with pytest.raises(ServiceError, match=r"tokenizer\.json has 56,086 bytes, the commit says 56,093"):
        fetched(hub_server, cache(tmp_path))


def test_more_bytes_than_promised_are_not_written(hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.longer.add("config.json")
    with pytest.raises(ServiceError, match=r"config\.json is longer than"):
        fetched(hub_server, FolderStore(tmp_path))
    assert not (tmp_path / "config.json").exists()


def test_bytes_of_another_commit_are_refused(hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.commit = "f" * 40
    with pytest.raises(ServiceError, match="is of commit ffffffffffff, asked was 0123456789ab"):
        fetched(hub_server, cache(tmp_path))


def test_too_little_room_is_said_before_anything_is_written(hub_server: Running, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"0\.00 GiB are to be fetched and 0\.25 GiB are free"):
        fetched(hub_server, FolderStore(tmp_path), free=lambda _: MARGIN_BYTES)
    assert not [path for path, _ in hub_server.asked if "/resolve/" in path]
    done = fetched(hub_server, FolderStore(tmp_path), free=lambda _: MARGIN_BYTES + 10 * 2**20)
    assert fetched(hub_server, FolderStore(tmp_path), free=lambda _: 0).bytes == done.bytes


def test_a_full_disk_is_one_error(hub_server: Running, tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC."""
    (file,) = parse_listing([entry("config.json", hub_server.files["config.json"])], "test")
    target = tmp_path / "config.json"
    (tmp_path / "config.json.incomplete").symlink_to("/dev/full")
    with pytest.raises(EnvironmentFault, match=r"the disk is full at config\.json"):
        downloading.download(Hub(hub_server.url), REPOSITORY, COMMIT, file, target, lambda _: None)


def test_a_folder_that_cannot_be_made(hub_server: Running, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        fetched(hub_server, FolderStore(tmp_path / "file" / "below"))


def test_two_at_once_fetch_once(hub_server: Running, tmp_path: Path) -> None:
    jobs = [threading.Thread(target=fetched, args=(hub_server, cache(tmp_path))) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    resolved = {path: count for path, count in hub_server.counts().items() if "/resolve/" in path}
    assert len(resolved) == len(hub_server.files) - 2  # one form is left out, an empty file needs no bytes
    assert set(resolved.values()) == {1}


def test_offline_reads_every_byte(hub_server: Running, tmp_path: Path) -> None:
    store = cache(tmp_path)
    done = fetched(hub_server, store)
    hub_server.asked.clear()
    assert check_offline(REPOSITORY, COMMIT, store).folder == done.folder
    assert hub_server.asked == []
    blob = (done.folder / WEIGHTS).resolve()
    content = bytearray(blob.read_bytes())
    content[1_000_000] ^= 1
    blob.write_bytes(content)
    with pytest.raises(EnvironmentFault, match=r"1 of \d+ files are missing or damaged: model\.safetensors"):
        check_offline(REPOSITORY, COMMIT, store)


def test_offline_without_a_fetch(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="was never fetched here"):
        check_offline(REPOSITORY, COMMIT, cache(tmp_path))


def test_offline_with_a_broken_record(hub_server: Running, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    fetched(hub_server, store)
    record = json.loads(store.record().read_text())
    record["files"][0]["path"] = "../outside"
    store.record().write_text(json.dumps(record))
    with pytest.raises(EnvironmentFault, match="is not readable as a record"):
        check_offline(REPOSITORY, COMMIT, store)


def test_access_is_refused(hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.token = "secret"
    with pytest.raises(ConfigError, match=r"refuses access \(HTTP 401\)"):
        fetched(hub_server, cache(tmp_path))
    assert fetch(Hub(hub_server.url, "secret"), REPOSITORY, COMMIT, cache(tmp_path)).files > 5


@pytest.mark.parametrize(
    ("repository", "commit", "what"),
    [(REPOSITORY, "f" * 40, "there is no commit f{40}"), ("nobody/nothing", COMMIT, "no such repository or revision")],
)
def test_what_is_not_there(repository: str, commit: str, what: str, hub_server: Running, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=what):
        fetch(Hub(hub_server.url), repository, commit, FolderStore(tmp_path))


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        fetch(Hub("http://127.0.0.1:9"), REPOSITORY, COMMIT, FolderStore(tmp_path))
