"""The whole errand: list, look at the disk, fetch what is missing, check, make visible."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from hybridserve.errors import EnvironmentFault
from hybridserve.fetch.download import Cancelled, download, intact
from hybridserve.fetch.hub import Hub
from hybridserve.fetch.listing import RemoteFile, wanted
from hybridserve.fetch.store import Store, free_bytes, only_one, read_record, write_record
from hybridserve.units import GIB

# Room for records, links and whoever else writes: a disk filled to the last byte takes the node down.
MARGIN_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is on the disk now.

    Attributes:
        folder: what a loader is given: the snapshot, or the plain folder.
        files: how many files the commit has there.
        bytes: their sum.
        downloaded_bytes: missing when it began (some of them may have been there in part).
        left_out: files of the commit that were not wanted.
    """

    folder: Path
    files: int
    bytes: int
    downloaded_bytes: int
    left_out: tuple[str, ...]


class Watcher:
    """Is told how it goes; this one keeps silent."""

    def begins(self, missing: int, present: int, total_bytes: int) -> None:
        """So many files are to be fetched, so many are there already."""

    def advance(self, file: RemoteFile, count: int) -> None:
        """So many bytes of a file came, or were thrown away."""

    def done(self, file: RemoteFile) -> None:
        """A file is whole and right."""


def fetch(
    hub: Hub,
    repository: str,
    revision: str,
    store: Store,
    *,
    watcher: Watcher | None = None,
    parallel: int = 4,
    free: Callable[[Path], int] = free_bytes,
) -> Fetched:
    """Bring a commit to the disk.

    Raises:
        ConfigError: no such repository or commit, or no right to read it.
        ServiceError: the hub fails, or sends wrong bytes.
        EnvironmentFault: too little room, or not writable.
    """
    watcher = watcher or Watcher()
    files, extra = wanted(hub.files(repository, revision))
    with only_one(store):
        missing = [file for file in files if not intact(store.path(file), file)]
        needed = sum(file.size - _kept(store.path(file)) for file in missing)
        have = free(store.root)
        if missing and needed + MARGIN_BYTES > have:
            raise EnvironmentFault(
                str(store.root),
                f"{needed / GIB:.2f} GiB are to be fetched and {have / GIB:.2f} GiB are free "
                f"({MARGIN_BYTES / GIB:.2f} GiB are kept free)",
                "make room, or name another disk with --cache or --to",
            )
        watcher.begins(len(missing), len(files) - len(missing), sum(file.size for file in missing))
        _all(hub, repository, revision, store, missing, watcher, parallel)
        write_record(store.record(), repository, revision, files)
        folder = store.finish(files)
    return Fetched(folder, len(files), sum(file.size for file in files), needed, tuple(file.path for file in extra))


def check_offline(repository: str, revision: str, store: Store) -> Fetched:
    """Read every byte that an earlier fetch left, without any network.

    Raises:
        EnvironmentFault: never fetched, or a file is missing or damaged.
    """
    files = read_record(store.record(), repository, revision)
    wrong = [file.path for file in files if not intact(store.path(file), file)]
    if wrong:
        raise EnvironmentFault(
            str(store.root),
            f"{len(wrong)} of {len(files)} files are missing or damaged: {', '.join(wrong[:3])}",
            "run it once without --offline: only these are fetched",
        )
    folder = store.finish(files)
    return Fetched(folder, len(files), sum(file.size for file in files), 0, ())


def _all(
    hub: Hub,
    repository: str,
    revision: str,
    store: Store,
    missing: list[RemoteFile],
    watcher: Watcher,
    parallel: int,
) -> None:
    stop = threading.Event()

    def one(file: RemoteFile) -> None:
        def advance(count: int) -> None:
            watcher.advance(file, count)

        if stop.is_set():
            raise Cancelled
        download(hub, repository, revision, file, store.path(file), advance, stop.is_set)
        watcher.done(file)

    # One download for each content: a blob may carry several names.
    distinct = list({store.path(file): file for file in missing}.values())
    with ThreadPoolExecutor(max_workers=max(1, parallel)) as pool:
        jobs = [pool.submit(one, file) for file in distinct]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    failed = [error for job in jobs if (error := job.exception()) is not None]
    for error in sorted(failed, key=lambda error: isinstance(error, Cancelled)):
        raise error


def _kept(path: Path) -> int:
    partial = path.with_name(path.name + ".incomplete")
    return partial.stat().st_size if partial.exists() else 0
