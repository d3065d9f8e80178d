"""Size and hash of each shard, from what the download has recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridserve.catalog.shards import Shard, shards

SHA = "ab" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, of which the index names a third."""
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for name in names[:2]:
        (tmp_path / name).write_bytes(b"weights")
    weight_map = dict(zip("abc", names, strict=True))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tmp_path


def found(folder: Path, hashed: dict[str, str] | None = None) -> list[tuple[int | None, str | None, str]]:
    return [(shard.bytes, shard.sha256, shard.source) for shard in shards(folder, hashed or {})]


def test_unknown_hashes_and_missing_shards_are_stated(folder: Path) -> None:
    assert found(folder) == [(7, None, "unknown"), (7, None, "unknown"), (None, None, "unknown")]


def test_hash_of_a_pinned_shard_is_the_one_that_was_computed(folder: Path) -> None:
    name = "model-00002-of-00003.safetensors"
    assert shards(folder, {name: SHA})[1] == Shard(name, 7, SHA, "hashed")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (f"{'1' * 40}\n{SHA}\n{{now}}\n", (7, SHA, "download record")),
        (f"{'1' * 40}\n{SHA}\n0.0\n", (7, None, "unknown")),
        (f"{'1' * 40}\nnot-a-sha\n{{now}}\n", (7, None, "unknown")),
        ("damaged", (7, None, "unknown")),
    ],
)
def test_record_of_the_download_gives_the_hash_of_an_unchanged_file(
    folder: Path, record: str, expected: tuple[int, str | None, str]
) -> None:
    file = folder / "model-00001-of-00003.safetensors"
    records = folder / ".cache" / "huggingface" / "download"
    records.mkdir(parents=True)
    (records / f"{file.name}.metadata").write_text(record.format(now=file.stat().st_mtime))
    assert found(folder)[0] == expected


def test_link_into_the_cache_names_the_hash(folder: Path) -> None:
    file = folder / "model-00001-of-00003.safetensors"
    blob = folder / SHA
    file.rename(blob)
    file.symlink_to(blob)
    assert found(folder)[0] == (7, SHA, "cache")
