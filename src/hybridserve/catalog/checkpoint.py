"""The size of a checkpoint's weights, from its files."""

from __future__ import annotations

import json
from pathlib import Path

from hybridserve.fast_dataclass import dataclass

INDEX = "model.safetensors.index.json"
# A safetensors file starts with the length of its JSON header. Real headers are far below this.
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class CheckpointSize:
    """Bytes of all tensors.

    Attributes:
        has_mtp: the bytes contain a draft module (multi-token prediction), which is loaded only if it is used.
    """

    bytes: int
    has_mtp: bool
    source: str


def checkpoint_size(folder: Path) -> CheckpointSize | None:
    """The size that the index states, or the sum over the shards' headers; None if the folder has neither.

    A file that is not a safetensors file (such as a Git LFS pointer) makes the size unknown.
    """
    index = _json(folder / INDEX)
    if index is not None:
        size, names = index.get("metadata", {}).get("total_size"), index.get("weight_map", {})
        if isinstance(size, int | float) and size > 0 and isinstance(names, dict):
            return CheckpointSize(int(size), any(map(_is_mtp, names)), f"{INDEX}: metadata.total_size")
    tensors: dict[str, int] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        sizes = _tensor_sizes(shard)
        if sizes is None:
            return None
        tensors.update(sizes)
    if not tensors:
        return None
    return CheckpointSize(sum(tensors.values()), any(map(_is_mtp, tensors)), "the headers of the safetensors files")


def _is_mtp(name: str) -> bool:
    return name.startswith(("mtp.", "model.mtp."))


def _tensor_sizes(path: Path) -> dict[str, int] | None:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < MAX_HEADER_BYTES:
                return None
            header = json.loads(file.read(length))
        offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        return {name: int(end) - int(begin) for name, (begin, end) in offsets.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _json(path: Path) -> dict[str, dict[str, object]] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("metadata", {}), dict) else None
