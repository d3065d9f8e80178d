"""API keys: a file of hashes, read again when it changes.

A line: ``alice sha256:<64 hex digits> scopes=inference,metrics rpm=60 tpm=100000 streams=8 expires=2027-01-31``.
Keys are long and random, so one SHA-256 is enough; a slow hash is for words that people choose, and would cost
more than all the rest of a request's way in.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from time import monotonic
from typing import get_args

from hybridserve.errors import ConfigError
from hybridserve.settings.access import Scope

log = logging.getLogger("hybridserve.access")

PREFIX = "hs-"
MIN_KEY_LENGTH = 24
_LOOK_EVERY_S = 1.0
_SCOPES: tuple[Scope, ...] = get_args(Scope)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Key:
    """Who asks. Limits are None where the settings' own hold; `expires` is the last day, in UTC.

    `insider` is the service itself: no limit holds for it, and it may ask while the guard is not seen to work.
    """

    name: str
    scopes: frozenset[Scope]
    rpm: int | None = None
    tpm: int | None = None
    streams: int | None = None
    expires: date | None = None
    digest: bytes = b""
    insider: bool = False


def new_key() -> str:
    """A new secret: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def key_line(
    name: str,
    key: str,
    scopes: tuple[str, ...] = ("inference",),
    *,
    rpm: int | None = None,
    tpm: int | None = None,
    streams: int | None = None,
    expires: date | None = None,
) -> str:
    """The line of the key file for a secret. The secret itself is not in it.

    Raises:
        ConfigError: a name that cannot stand in the file, or a secret short enough to be guessed.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"key name {name!r}", "cannot stand in the key file", "use letters, digits, . _ and -")
    if len(key) < MIN_KEY_LENGTH:
        raise ConfigError(
            f"key {name}", f"is shorter than {MIN_KEY_LENGTH} characters", "use `hybridserve key new`, or a longer one"
        )
    if not set(scopes) <= set(_SCOPES):
        raise ConfigError(f"key {name}", f"unknown scope in {','.join(scopes)!r}", f"use {', '.join(_SCOPES)}")
    fields = [name, f"sha256:{_digest(key.encode()).hex()}", f"scopes={','.join(scopes)}"]
    fields += [
        f"{label}={value}"
        for label, value in (("rpm", rpm), ("tpm", tpm), ("streams", streams), ("expires", expires))
        if value is not None
    ]
    return " ".join(fields)


def parse_keys(text: str, where: str) -> dict[bytes, Key]:
    """Keys by the first half of their digest.

    Raises:
        ConfigError: a malformed line; `where` says which. The hash is not repeated.
    """
    keys: dict[bytes, Key] = {}
    names: set[str] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        key = _parse_line(line, f"{where} line {number}")
        if key.name in names:
            raise ConfigError(f"{where} line {number}", f"name {key.name} stands twice", "give each key its own name")
        names.add(key.name)
        keys[key.digest[:16]] = key
    return keys


def _parse_line(line: str, where: str) -> Key:
    fix = "write lines with `hybridserve key new NAME`"
    name, *fields = line.split()
    if not _NAME.fullmatch(name) or not fields:
        raise ConfigError(where, "is no key line", fix)
    match = re.fullmatch(r"sha256:([0-9a-f]{64})", fields[0])
    if match is None:
        raise ConfigError(where, f"key {name} has no sha256 hash", fix)
    values: dict[str, str] = {}
    for field in fields[1:]:
        label, equals, value = field.partition("=")
        if label not in ("scopes", "rpm", "tpm", "streams", "expires") or not equals or label in values:
            raise ConfigError(where, f"key {name}: {field!r} is not understood", fix)
        values[label] = value
    scopes = values.get("scopes", "inference").split(",")
    if not set(scopes) <= set(_SCOPES):
        raise ConfigError(where, f"key {name}: unknown scope in {values['scopes']!r}", f"use {', '.join(_SCOPES)}")
    try:
        expires = date.fromisoformat(values["expires"]) if "expires" in values else None
        limits = {label: int(values[label]) for label in ("rpm", "tpm", "streams") if label in values}
    except ValueError as error:
        raise ConfigError(where, f"key {name}: {error}", fix) from None
    if any(limit < 1 for limit in limits.values()):
        raise ConfigError(where, f"key {name}: a limit is below 1", "leave the limit out, or remove the key")
    return Key(
        name=name,
        scopes=frozenset(scope for scope in _SCOPES if scope in scopes),
        rpm=limits.get("rpm"),
        tpm=limits.get("tpm"),
        streams=limits.get("streams"),
        expires=expires,
        digest=bytes.fromhex(match[1]),
    )


class APIKeyStore:
    """The key file in force. It is looked at once a second at most; a broken new file leaves the old keys in force.

    Raises:
        ConfigError: the file cannot be read at the start.
    """

    def __init__(
        self,
        file: Path,
        clock: Callable[[], float] = monotonic,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._file = file
        self._clock = clock
        self._today = today
        self._stamp = self._stat()
        self._keys = self._read()
        self._looked = clock()

    def find(self, secret: bytes) -> Key | None:
        """The key of a secret, or None where it is unknown or has expired."""
        self._refresh()
        digest = _digest(secret)
        key = self._keys.get(digest[:16])
        # The look-up is by hash, whose bytes a caller cannot steer; the comparison takes the same time for all.
        if key is None or not hmac.compare_digest(key.digest, digest):
            return None
        if key.expires is not None and self._today() > key.expires:
            return None
        return key

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        try:
            stamp = self._stat()
            if stamp == self._stamp:
                return
            self._keys, self._stamp = self._read(), stamp
            log.info("keys_reloaded", extra={"keys": len(self._keys)})
        except ConfigError as error:
            log.error("keys_reload_failed", extra={"where": error.where, "what": error.what})

    def _stat(self) -> tuple[int, int, int]:
        # The inode, too: a mounted secret is swapped whole, and two versions may have one size and time.
        try:
            status = self._file.stat()
        except OSError as error:
            raise ConfigError(
                f"access.keys_file {self._file}",
                f"cannot be read: {error.strerror}",
                "create it with `hybridserve key new`",
            ) from None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> dict[bytes, Key]:
        where = f"access.keys_file {self._file}"
        try:
            return parse_keys(self._file.read_text(encoding="utf-8"), where)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(where, f"cannot be read: {error}", "give a readable text file") from None


def extract_api_key(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The secret a request shows: ``Authorization: Bearer ...``, or ``x-api-key``."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, secret = value.partition(b" ")
            return secret.strip() if scheme.lower() == b"bearer" and secret.strip() else None
    for name, value in headers:
        if name == b"x-api-key":
            return value or None
    return None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
