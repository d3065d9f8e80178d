"""File lists: only files that stay in their folder, each with a checksum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.errors import ServiceError
from hybridserve.fetch.downloader import Hub, fetch
from hybridserve.fetch.files import RemoteFile, Store, check_files, select_files
from support.fake_hub import COMMIT, REPOSITORY, FakeHub, demo_files, entry

OUTSIDE = [
    "../evil", "/etc/evil", "a/../../evil", "a//b", "./a", "a/.", "", "a\\..\\b", "a\0b", "a\nb", "C:/x", "..", "a/..",
]  # fmt: skip


def file(path: str) -> RemoteFile:
    return RemoteFile(path, 1, "a" * 40, "git")


@pytest.mark.parametrize("path", OUTSIDE)
def test_path_outside_its_folder_is_refused(path: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.listing = [entry("config.json", b"{}"), entry(path, b"evil")]
    for plain in (True, False):
        store = Store(tmp_path / "a" / "b", REPOSITORY, COMMIT, plain)
        with pytest.raises(ServiceError, match="would leave its folder"):
            fetch(Hub(hub.url), store)
    assert list(tmp_path.iterdir()) == []


@given(st.text(alphabet="./\\ab:\0 ", max_size=12))
def test_accepted_path_stays_below_any_folder(path: str) -> None:
    try:
        (accepted,) = check_files([file(path)], "test")
    except ServiceError:
        return
    joined = Path("/models/base") / accepted.path
    assert Path("/models/base") in joined.parents
    assert ".." not in joined.parts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"oid": "../../blob"}, "no usable checksum"),
        ({"oid": None}, "no usable checksum"),
        ({"size": -1}, "has the size -1"),
        ({"size": True}, "has the size True"),
        ({"size": "5"}, "has the size '5'"),
        ({"path": None}, "would leave its folder"),
        ({"lfs": {"oid": "0" * 40, "size": 5, "pointerSize": 130}}, "no usable checksum"),
    ],
)
def test_invalid_entry_is_refused(change: dict[str, Any], message: str, hub: FakeHub) -> None:
    hub.listing = [{**entry("config.json", b"{}"), **change}]
    with pytest.raises(ServiceError, match=message):
        Hub(hub.url).files(REPOSITORY, COMMIT)


@pytest.mark.parametrize("listing", [{}, "files", [], ["config.json"], [entry("a", b""), entry("a", b"")]])
def test_invalid_list_is_refused(listing: Any, hub: FakeHub) -> None:
    hub.listing = listing
    with pytest.raises(ServiceError):
        Hub(hub.url).files(REPOSITORY, COMMIT)


def test_file_below_a_file_is_refused() -> None:
    with pytest.raises(ServiceError, match="'a/b' is below a file"):
        check_files([file("a"), file("a/b")], "test")


def test_other_formats_are_left_out_only_beside_safetensors() -> None:
    files = check_files([file(path) for path in demo_files()], "test")
    selected, left_out = select_files(files)
    assert [skipped.path for skipped in left_out] == ["pytorch_model.bin"]
    assert {"cards/bias.md", "README.md", "config.json"} <= {chosen.path for chosen in selected}
    without = tuple(listed for listed in files if not listed.path.endswith(".safetensors"))
    assert select_files(without) == (without, ())
