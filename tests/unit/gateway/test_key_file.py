"""The file of API keys: reloaded, expired, broken and missing."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from hybridserve.errors import ConfigError
from hybridserve.gateway.auth.api_keys import APIKeyStore, key_line, keys_in_force, new_key, parse_keys
from support.gateway_client import bearer, gateway, get, send


def test_key_file_is_reloaded(tmp_path: Path) -> None:
    file, now = tmp_path / "keys.txt", [0.0]
    first, second = new_key(), new_key()
    file.write_text(key_line("a", first))
    store = APIKeyStore(file, clock=lambda: now[0])
    assert store.find(first.encode()) is not None
    fresh = tmp_path / "fresh"
    fresh.write_text(key_line("a", second))
    fresh.replace(file)
    assert store.find(first.encode()) is not None, "the file is checked at most once a second"
    now[0] = 2.0
    assert store.find(first.encode()) is None
    assert store.find(second.encode()) is not None
    file.write_text("a invalid\n")
    now[0] = 4.0
    assert store.find(second.encode()) is not None, "its line is malformed, not removed"
    assert store.problem is not None
    file.unlink()
    now[0] = 6.0
    assert store.find(second.encode()) is not None
    assert "cannot be read" in str(store.problem)
    file.write_text("\n")
    now[0] = 8.0
    assert store.find(second.encode()) is None
    assert store.problem is None


HASHES = {name: f"{name} sha256:{digit * 64}" for name, digit in (("al", "1"), ("bo", "2"), ("cy", "3"))}


@pytest.mark.parametrize(
    ("versions", "valid"),
    [
        ([["al", "bo"]], {"al": 60, "bo": 60}),
        ([["bo"]], {"bo": 60}),
        ([["bo", "broken line"]], {"bo": 60}),
        ([["al sha256:damaged", "bo rpm=5"]], {"al": 60, "bo": 5}),
        ([["bo", "broken line"], ["al", "bo", "broken line"]], {"bo": 60}),
        ([["bo", "broken line"], ["al", "bo"]], {"al": 60, "bo": 60}),
        ([["al", "cy", "broken line"]], {"al": 60, "cy": 60}),
        ([["\ufffd\ufffd"]], {}),
        ([[]], {}),
    ],
)
def test_broken_key_file_revokes_and_never_revives(versions: list[list[str]], valid: dict[str, int]) -> None:
    """Each version is a list of lines: a name, a name with another limit, or a malformed line."""

    def text(lines: list[str]) -> str:
        parts = (line.split(" ", 1) for line in lines)
        rows = {name: HASHES.get(name, name) + " " + "".join(rest or ["rpm=60"]) for name, *rest in parts}
        return "\n".join(line if "sha256:d" in line else rows[line.split(" ")[0]] for line in lines)

    keys = {key.name: key for key in parse_keys(text(["al", "bo"]), "f")}
    removed: frozenset[str] = frozenset()
    for version in versions:
        keys, removed, problem = keys_in_force(keys, removed, text(version), "f")
        assert (problem is None) == all(line.split(" ")[0] in HASHES and "damaged" not in line for line in version)
    assert {name: key.rpm for name, key in keys.items()} == valid


def test_broken_key_file_is_reported(keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridserve.gateway.auth.api_keys._CHECK_INTERVAL_S", 0.0)
    app = gateway(access={"keys_file": keys["file"]})
    assert get(app, "/ready").json()["warnings"] == []
    Path(keys["file"]).unlink()
    ready = get(app, "/ready")
    assert ready.status == 200, "requests with known keys are served"
    assert ready.json()["warnings"] == ["access.keys_file: broken, see keys_reload_failed in the log"]
    assert app.state.metrics.keys_file_broken.collect()[0].samples[0].value == 1
    assert send(app, headers=bearer(keys["user"])).status == 200


def test_key_expires_after_its_last_day(tmp_path: Path) -> None:
    file, key, today = tmp_path / "keys.txt", new_key(), [date(2027, 1, 31)]
    file.write_text(key_line("a", key, expires=date(2027, 1, 31)))
    store = APIKeyStore(file, today=lambda: today[0])
    assert store.find(key.encode()) is not None
    today[0] = date(2027, 2, 1)
    assert store.find(key.encode()) is None


def test_whole_hash_is_compared(tmp_path: Path) -> None:
    file, key = tmp_path / "keys.txt", new_key()
    line = key_line("a", key)
    end = line.index(" scopes=")
    other = "0" if line[end - 1] != "0" else "1"
    file.write_text(line[: end - 1] + other + line[end:])
    assert APIKeyStore(file).find(key.encode()) is None


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice secret-in-plain-text",
        "alice sha256:abc",
        f"alice sha256:{'0' * 64} secret-in-plain-text",
        f"alice sha256:{'0' * 64} expires=secret",
        f"alice sha256:{'0' * 64} scopes=everything",
        f"alice sha256:{'0' * 64} rpm=many",
        f"alice sha256:{'0' * 64} rpm=0",
        f"alice sha256:{'0' * 64} colour=red",
        f"alice sha256:{'0' * 64}\nalice sha256:{'1' * 64}",
        f"al/ice sha256:{'0' * 64}",
    ],
)
def test_malformed_key_file_is_a_config_error(line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line") as raised:
        parse_keys(line, "keys.txt")
    assert "secret" not in str(raised.value)
    file = tmp_path / "keys.txt"
    file.write_text(line)
    with pytest.raises(ConfigError):
        gateway(access={"keys_file": str(file)})


def test_missing_key_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        gateway(access={"keys_file": str(tmp_path / "none")})
