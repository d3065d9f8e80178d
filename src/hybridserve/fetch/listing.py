"""What a commit holds, from the answer of a hub's `tree` endpoint. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from hybridserve.errors import ServiceError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
_ID = {"sha256": re.compile(r"[0-9a-f]{64}"), "git": COMMIT}

# The same weights in forms that vLLM does not prefer: left out where safetensors are there.
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".onnx_data", ".msgpack", ".h5", ".ot", ".tflite", ".ckpt")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a commit.

    Attributes:
        path: in the repository, with `/`.
        size: bytes.
        digest: sha256 of a large file, git's blob id of a small one; hexadecimal.
        kind: which of the two.
    """

    path: str
    size: int
    digest: str
    kind: Literal["sha256", "git"]

    def hasher(self) -> Any:
        """A hash object that ends in `digest` when fed the right bytes."""
        if self.kind == "sha256":
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_listing(entries: Any, where: str) -> tuple[RemoteFile, ...]:
    """The files of a `tree` answer, sorted by path.

    Raises:
        ServiceError: not such an answer, or a path that would be written outside of its folder.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, (str, bytes)):
        raise _broken(where, "the listing is not a list")
    files = [_file(entry, where) for entry in entries if not _is_folder(entry, where)]
    if not files:
        raise _broken(where, "the listing names no file")
    taken: set[str] = set()
    for file in files:
        if file.path in taken:
            raise _broken(where, f"{file.path!r} is listed twice")
        taken.add(file.path)
    if nested := [
        file.path for file in files if any(str(above) in taken for above in PurePosixPath(file.path).parents)
    ]:
        raise _broken(where, f"{nested[0]!r} lies below a file")
    return tuple(sorted(files, key=lambda file: file.path))


def wanted(files: Iterable[RemoteFile]) -> tuple[tuple[RemoteFile, ...], tuple[RemoteFile, ...]]:
    """What to fetch and what to leave out: weights that are there a second time in another form.

    Everything else is fetched: license, NOTICE and the cards that a license asks to keep beside the weights.
    """
    files = tuple(files)
    if not any(file.path.endswith(".safetensors") for file in files):
        return files, ()
    extra = tuple(file for file in files if file.path.endswith(OTHER_WEIGHTS))
    return tuple(file for file in files if file not in extra), extra


def _is_folder(entry: Any, where: str) -> bool:
    if not isinstance(entry, Mapping):
        raise _broken(where, "an entry of the listing is not an object")
    return entry.get("type") == "directory"


def _file(entry: Mapping[str, Any], where: str) -> RemoteFile:
    path, lfs = entry.get("path"), entry.get("lfs")
    if not isinstance(path, str) or not _safe(path):
        raise _broken(where, f"the file name {path!r} would leave its folder")
    kind: Literal["sha256", "git"] = "sha256" if isinstance(lfs, Mapping) else "git"
    told = lfs if isinstance(lfs, Mapping) else entry
    size, digest = told.get("size"), told.get("oid")
    if isinstance(digest, str):
        digest = digest.removeprefix("sha256:")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _broken(where, f"{path} has the size {size!r}")
    if not isinstance(digest, str) or not _ID[kind].fullmatch(digest):
        raise _broken(where, f"{path} has no usable checksum ({digest!r})")
    return RemoteFile(path, size, digest, kind)


def _safe(path: str) -> bool:
    """Whether the path stays inside the folder that it is joined to, on any system."""
    if not path or any(ord(letter) < 32 for letter in path) or set(path) & set('\\:*?"<>|'):
        return False
    return all(part not in ("", ".", "..") for part in path.split("/"))


def _broken(where: str, what: str) -> ServiceError:
    return ServiceError(where, what, "take another mirror, or the hub itself")
