"""Where the files go: the hub's cache layout, from which vLLM loads offline by name and commit, or a plain folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from hybridserve.errors import EnvironmentFault, ServiceError
from hybridserve.fetch.listing import RemoteFile, parse_listing


class Store(Protocol):
    """A place for the files of one commit."""

    root: Path
    """Folder that has to have room."""

    def path(self, file: RemoteFile) -> Path:
        """Where the bytes of a file are kept."""
        ...

    def finish(self, files: Sequence[RemoteFile]) -> Path:
        """Make the commit visible, now that every file is right; the folder that a loader is given."""
        ...

    def record(self) -> Path:
        """File that remembers what the commit holds, for use without a network."""
        ...


class CacheStore:
    """The hub's own cache: ``models--org--name/{blobs,snapshots/COMMIT}``."""

    def __init__(self, cache: Path, repository: str, revision: str) -> None:
        self.root = cache
        self._home = cache / f"models--{repository.replace('/', '--')}"
        self._revision = revision

    def path(self, file: RemoteFile) -> Path:
        return self._home / "blobs" / file.digest

    def record(self) -> Path:
        return self._home / "hybridserve" / f"{self._revision}.json"

    def finish(self, files: Sequence[RemoteFile]) -> Path:
        """Link the blobs into a snapshot that appears whole, by a rename, or is completed where one was there."""
        snapshot = self._home / "snapshots" / self._revision
        building = snapshot.with_name(f".{self._revision}.{os.getpid()}")
        shutil.rmtree(building, ignore_errors=True)
        place = snapshot if snapshot.exists() else building
        for file in files:
            link = place / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            depth = len(Path(file.path).parts) + 1
            pointer = Path(*[".."] * depth, "blobs", file.digest)
            if link.is_symlink() and link.readlink() == pointer:
                continue
            fresh = link.with_name(link.name + ".link")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(pointer)
            fresh.replace(link)
        if place is building:
            building.rename(snapshot)
        return snapshot


class FolderStore:
    """A plain folder with the repository's own paths, to be given as `model.source`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder

    def path(self, file: RemoteFile) -> Path:
        return self.root / file.path

    def record(self) -> Path:
        return self.root / ".hybridserve-fetch.json"

    def finish(self, files: Sequence[RemoteFile]) -> Path:
        return self.root


def default_cache() -> Path:
    """The cache that every library of the hub uses: HF_HUB_CACHE, HF_HOME/hub, or ~/.cache/huggingface/hub."""
    if found := os.environ.get("HF_HUB_CACHE"):
        return Path(found).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def free_bytes(folder: Path) -> int:
    """What the disk of a folder, which may not exist yet, has left."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def write_record(path: Path, repository: str, revision: str, files: Sequence[RemoteFile]) -> None:
    """Remember the listing, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"repository": repository, "revision": revision, "files": [file.as_dict() for file in files]}
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def read_record(path: Path, repository: str, revision: str) -> tuple[RemoteFile, ...]:
    """What `write_record` wrote for this commit.

    Raises:
        EnvironmentFault: never fetched here, or of another commit.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["repository"], content["revision"]) == (repository, revision):
            return parse_listing([_entry(file) for file in content["files"]], str(path))
        found = f"holds {content['repository']} at {str(content['revision'])[:12]}"
    except FileNotFoundError:
        found = f"{repository} at {revision[:12]} was never fetched here"
    except (OSError, ValueError, KeyError, TypeError, ServiceError):
        found = "is not readable as a record of a fetch"
    raise EnvironmentFault(str(path), found, "run it once without --offline")


def _entry(file: dict[str, object]) -> dict[str, object]:
    told = {"oid": file["digest"], "size": file["size"]}
    return {"path": file["path"], "lfs": told} if file["kind"] == "sha256" else {"path": file["path"], **told}


@contextmanager
def only_one(store: Store) -> Iterator[None]:
    """Two replicas on one volume fetch once: the second waits, then finds everything there.

    Raises:
        EnvironmentFault: the folder cannot be written.
    """
    lock = store.record().with_name(".fetch.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
    except OSError as error:
        raise EnvironmentFault(
            str(lock.parent), f"cannot be written: {error.strerror}", "give a writable folder with --cache or --to"
        ) from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
