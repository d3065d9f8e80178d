"""What a listing may say: only files that stay in their folder, each with a checksum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.errors import ServiceError
from hybridserve.fetch.downloader import fetch
from hybridserve.fetch.hub import Hub
from hybridserve.fetch.listing import parse_listing, wanted
from hybridserve.fetch.store import CacheStore, FolderStore
from support.fake_hub import COMMIT, REPOSITORY, Running, demo_files, entry

OUTSIDE = [
    "../evil", "/etc/evil", "a/../../evil", "a//b", "./a", "a/.", "", "a\\..\\b", "a\0b", "a\nb", "C:/x", "..", "a/..",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_that_leave_their_folder(path: str, hub_server: Running, tmp_path: Path) -> None:
    hub_server.faults.listing = [entry("config.json", b"{}"), entry(path, b"evil")]
    for store in (FolderStore(tmp_path / "a" / "b"), CacheStore(tmp_path / "a" / "b", REPOSITORY, COMMIT)):
        with pytest.raises(ServiceError, match="would leave its folder"):
            fetch(Hub(hub_server.url), REPOSITORY, COMMIT, store)
    assert list(tmp_path.iterdir()) == []


@given(st.text(alphabet="./\\ab:\0 ", max_size=12))
def test_an_accepted_path_stays_below_any_folder(path: str) -> None:
    try:
        (file,) = parse_listing([entry(path, b"x")], "test")
    except ServiceError:
        return
    base = Path("/models/one")
    joined = Path(*(part for part in (base / file.path).parts))
    assert base in joined.parents
    assert ".." not in joined.parts


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"oid": "../../blob"}, "no usable checksum"),
        ({"oid": None}, "no usable checksum"),
        ({"size": -1}, "has the size -1"),
        ({"size": True}, "has the size True"),
        ({"size": "5"}, "has the size '5'"),
        ({"path": None}, "would leave its folder"),
        ({"lfs": {"oid": "0" * 40, "size": 5}}, "no usable checksum"),
    ],
)
def test_entries_that_make_no_sense(change: dict[str, Any], what: str) -> None:
    with pytest.raises(ServiceError, match=what):
        parse_listing([{**entry("config.json", b"{}"), **change}], "test")


@pytest.mark.parametrize("listing", [{}, "files", [], ["config.json"], [entry("a", b""), entry("a", b"")]])
def test_listings_that_are_none(listing: Any) -> None:
    with pytest.raises(ServiceError):
        parse_listing(listing, "test")


def test_a_file_below_a_file() -> None:
    with pytest.raises(ServiceError, match="'a/b' lies below a file"):
        parse_listing([entry("a", b"x"), entry("a/b", b"y")], "test")


def test_other_forms_are_left_out_only_beside_safetensors() -> None:
    files = parse_listing([entry(path, content) for path, content in demo_files().items()], "test")
    taken, extra = wanted(files)
    assert [file.path for file in extra] == ["pytorch_model.bin"]
    assert {"cards/bias.md", "README.md", "config.json"} <= {file.path for file in taken}
    without = tuple(file for file in files if not file.path.endswith(".safetensors"))
    assert wanted(without) == (without, ())
