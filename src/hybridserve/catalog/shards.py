"""Identity of a checkpoint's weights: size and sha256 of each shard, without reading the weights.

huggingface_hub records the sha256 of what it downloaded: in its cache as the name of the blob to which a file links, in
a local folder in ``.cache/huggingface/download``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from hybridserve.catalog.checkpoint import INDEX
from hybridserve.fast_dataclass import dataclass

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of weights.

    Attributes:
        bytes: None where the index names a file that is not there.
        sha256: None where it is not known.
        source: where the hash is from.
    """

    file: str
    bytes: int | None
    sha256: str | None
    source: Literal["hashed", "download record", "cache", "unknown"]


def shards(folder: Path, hashed: Mapping[str, str]) -> tuple[Shard, ...]:
    """The shards of a checkpoint in a folder, those that its index names included.

    Args:
        hashed: sha256 of files that the caller has read.
    """
    names = {path.name for path in folder.glob("*.safetensors")} | _indexed(folder)
    return tuple(_shard(folder / name, hashed) for name in sorted(names))


def _shard(path: Path, hashed: Mapping[str, str]) -> Shard:
    try:
        size = path.stat().st_size
    except OSError:
        return Shard(path.name, None, None, "unknown")
    if path.name in hashed:
        return Shard(path.name, size, hashed[path.name], "hashed")
    if _SHA256.fullmatch(path.resolve().name):
        return Shard(path.name, size, path.resolve().name, "cache")
    recorded = _recorded(path)
    return Shard(path.name, size, recorded, "download record" if recorded else "unknown")


def _recorded(path: Path) -> str | None:
    """Lines of a record: commit, ETag (the sha256 of a large file) and time. A file changed later has another hash."""
    record = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    try:
        _, etag, saved = record.read_text(encoding="utf-8").split()
        unchanged = path.stat().st_mtime - 1 <= float(saved)
    except (OSError, ValueError):
        return None
    return etag if unchanged and _SHA256.fullmatch(etag) else None


def _indexed(folder: Path) -> set[str]:
    try:
        files = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {name for name in files if isinstance(name, str) and "/" not in name}
