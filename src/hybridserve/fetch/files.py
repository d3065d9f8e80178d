"""The files of one commit, their checksums, and where they are stored."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hybridserve.errors import EnvironmentFault, ServiceError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = {"sha256": re.compile(r"[0-9a-f]{64}"), "git": COMMIT}

# Weights in formats that vLLM does not prefer. Skipped when the commit has safetensors.
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".onnx_data", ".msgpack", ".h5", ".ot", ".tflite", ".ckpt")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a commit.

    Attributes:
        path: path in the repository, with `/`.
        size: bytes.
        digest: sha256 of an LFS file, git blob id of a small file; hexadecimal.
        kind: `sha256` or `git`.
    """

    path: str
    size: int
    digest: str
    kind: str

    def matches(self, path: Path) -> bool:
        """Whether the file on disk is byte for byte the file of the commit."""
        hasher: Any = hashlib.sha256()
        if self.kind == "git":
            hasher = hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        try:
            if path.stat().st_size != self.size:
                return False
            with path.open("rb") as source:
                while chunk := source.read(1 << 20):
                    hasher.update(chunk)
        except OSError:
            return False
        return bool(hasher.hexdigest() == self.digest)


def check_files(files: Iterable[RemoteFile], where: str) -> tuple[RemoteFile, ...]:
    """The files sorted by path, each with a size, a checksum and a path that stays inside its folder.

    Raises:
        ServiceError: the list is empty or an entry is invalid.
    """
    by_path: dict[str, RemoteFile] = {}
    for file in files:
        problem = None
        if not isinstance(file.path, str) or not _is_inside(file.path):
            problem = f"the file name {file.path!r} would leave its folder"
        elif not isinstance(file.size, int) or isinstance(file.size, bool) or file.size < 0:
            problem = f"{file.path} has the size {file.size!r}"
        elif not isinstance(file.digest, str) or not DIGEST[file.kind].fullmatch(file.digest):
            problem = f"{file.path} has no usable checksum ({file.digest!r})"
        elif file.path in by_path:
            problem = f"{file.path!r} is listed twice"
        if problem is not None:
            raise ServiceError(where, problem, "use another mirror, or the hub itself")
        by_path[file.path] = file
    below = [path for path in by_path if any(str(parent) in by_path for parent in PurePosixPath(path).parents)]
    if below or not by_path:
        problem = f"{below[0]!r} is below a file" if below else "the file list is empty"
        raise ServiceError(where, problem, "use another mirror, or the hub itself")
    return tuple(by_path[path] for path in sorted(by_path))


def select_files(files: Sequence[RemoteFile]) -> tuple[tuple[RemoteFile, ...], tuple[RemoteFile, ...]]:
    """Files to download, and files to leave out: the same weights in another format.

    Everything else is downloaded: license, NOTICE and the model cards that a license requires beside the weights.
    """
    has_safetensors = any(file.path.endswith(".safetensors") for file in files)
    left_out = tuple(file for file in files if has_safetensors and file.path.endswith(OTHER_WEIGHTS))
    return tuple(file for file in files if file not in left_out), left_out


def _is_inside(path: str) -> bool:
    """Whether the path stays inside the folder that it is joined to, on any system."""
    if not path or any(ord(letter) < 32 for letter in path) or set(path) & set('\\:*?"<>|'):
        return False
    return all(part not in ("", ".", "..") for part in path.split("/"))


class Store:
    """Where the files of one commit are stored.

    Args:
        root: the hub's cache (``models--org--name/{blobs,snapshots/COMMIT}``, from which vLLM loads offline), or with
            `plain` a folder with the repository's own paths, for `model.source`.
    """

    def __init__(self, root: Path, repository: str, revision: str, plain: bool = False) -> None:
        self.root, self.repository, self.revision, self.plain = root, repository, revision, plain
        self._cache = root / f"models--{repository.replace('/', '--')}"
        cached_record = self._cache / "hybridserve" / f"{revision}.json"
        self.record = root / ".hybridserve-fetch.json" if plain else cached_record

    def path(self, file: RemoteFile) -> Path:
        """Where the content of a file is stored."""
        return self.root / file.path if self.plain else self._cache / "blobs" / file.digest

    def publish(self, files: Sequence[RemoteFile]) -> Path:
        """Link the blobs into the snapshot, which appears complete by one rename. Returns the folder for a loader."""
        if self.plain:
            return self.root
        snapshot = self._cache / "snapshots" / self.revision
        building = snapshot.with_name(f".{self.revision}.{os.getpid()}")
        shutil.rmtree(building, ignore_errors=True)
        folder = snapshot if snapshot.exists() else building
        for file in files:
            link = folder / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            target = Path(*[".."] * (len(PurePosixPath(file.path).parts) + 1), "blobs", file.digest)
            if link.is_symlink() and link.readlink() == target:
                continue
            new_link = link.with_name(link.name + ".link")
            new_link.unlink(missing_ok=True)
            new_link.symlink_to(target)
            new_link.replace(link)
        if folder is building:
            building.rename(snapshot)
        return snapshot

    def write_record(self, files: Sequence[RemoteFile]) -> None:
        """Record the commit and its file list, for checks without a network."""
        content = {
            "repository": self.repository,
            "revision": self.revision,
            "files": [asdict(file) for file in files],
        }
        self.record.parent.mkdir(parents=True, exist_ok=True)
        new = self.record.with_name(self.record.name + ".new")
        new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        new.replace(self.record)

    def read_record(self) -> tuple[RemoteFile, ...]:
        """The recorded file list.

        Raises:
            EnvironmentFault: the commit was never fetched here, or the record is of another commit.
        """
        try:
            content = json.loads(self.record.read_text(encoding="utf-8"))
            if (content["repository"], content["revision"]) == (self.repository, self.revision):
                return check_files([RemoteFile(**file) for file in content["files"]], str(self.record))
            problem = f"contains {content['repository']} at {str(content['revision'])[:12]}"
        except FileNotFoundError:
            problem = f"{self.repository} at {self.revision[:12]} was never fetched here"
        except (OSError, ValueError, KeyError, TypeError, ServiceError):
            problem = "is not a valid record of a fetch"
        raise EnvironmentFault(str(self.record), problem, "run it once without --offline")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let one process at a time write: the second waits, then finds everything there.

        Raises:
            EnvironmentFault: the folder cannot be written.
        """
        lock = self.record.with_name(".fetch.lock")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = lock.open("w")
        except OSError as error:
            raise EnvironmentFault(
                str(lock.parent), f"cannot be written: {error.strerror}", "set a writable folder with --cache or --to"
            ) from None
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def partial_path(target: Path) -> Path:
    """Where the bytes of an unfinished download are kept for the next run."""
    return target.with_name(target.name + ".incomplete")


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, which may not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
