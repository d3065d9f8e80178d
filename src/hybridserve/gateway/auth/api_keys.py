"""API keys: a file of hashed keys, read again when it changes.

A line: ``alice sha256:<64 hex digits> scopes=inference,metrics rpm=60 tpm=100000 streams=8 expires=2027-01-31``.
Keys are long and random, so one SHA-256 is enough. A slow hash is for passwords, and would cost more than all other
steps of a request together.
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
from typing import Any, get_args

from hybridserve.errors import ConfigError
from hybridserve.gateway.headers import first_header
from hybridserve.gateway.types import RawHeaders
from hybridserve.settings.access import Scope

log = logging.getLogger("hybridserve.access")

PREFIX = "hs-"
MIN_KEY_LENGTH = 24
_CHECK_INTERVAL_S = 1.0
_SCOPES: tuple[Scope, ...] = get_args(Scope)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Key:
    """An API key.

    Attributes:
        rpm: requests per minute; None for the limit of the settings, as `tpm` (tokens per minute) and `streams`.
        expires: last day on which the key is valid, in UTC.
        internal: the service's own requests; they have no limits and run while the guard's self-test fails.
    """

    name: str
    scopes: frozenset[Scope]
    rpm: int | None = None
    tpm: int | None = None
    streams: int | None = None
    expires: date | None = None
    digest: bytes = b""
    internal: bool = False


def new_key() -> str:
    """A new secret with 256 random bits."""
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
    """The line of the key file for a secret. It does not contain the secret.

    Raises:
        ConfigError: the name is not allowed, the secret is short enough to be guessed, or a scope is unknown.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"key name {name!r}", "has characters that are not allowed", "use letters, digits, . _ and -")
    if len(key) < MIN_KEY_LENGTH:
        raise ConfigError(
            f"key {name}", f"is shorter than {MIN_KEY_LENGTH} characters", "use `hybridserve key new`, or a longer one"
        )
    try:
        _scopes(",".join(scopes))
    except ValueError as error:
        raise ConfigError(f"key {name}", str(error), f"use {', '.join(_SCOPES)}") from None
    fields = [name, f"sha256:{_digest(key.encode()).hex()}", f"scopes={','.join(scopes)}"]
    options = {"rpm": rpm, "tpm": tpm, "streams": streams, "expires": expires}
    fields += [f"{label}={value}" for label, value in options.items() if value is not None]
    return " ".join(fields)


def parse_keys(text: str, where: str) -> dict[bytes, Key]:
    """Keys by the first half of their digest.

    Args:
        where: name of the file, for errors.

    Raises:
        ConfigError: a malformed line. The message does not repeat the hash.
    """
    keys: dict[bytes, Key] = {}
    names: set[str] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        key = _parse_line(line, f"{where} line {number}")
        if key.name in names:
            raise ConfigError(f"{where} line {number}", f"duplicate key name {key.name}", "give each key its own name")
        names.add(key.name)
        keys[key.digest[:16]] = key
    return keys


def _parse_line(line: str, where: str) -> Key:
    fix = "write lines with `hybridserve key new NAME`"
    name, *fields = line.split()
    if not _NAME.fullmatch(name) or not fields:
        raise ConfigError(where, "invalid line: expected `NAME sha256:HASH [options]`", fix)
    match = re.fullmatch(r"sha256:([0-9a-f]{64})", fields[0])
    if match is None:
        raise ConfigError(where, f"key {name} has no sha256 hash", fix)
    options: dict[str, Any] = {}
    for field in fields[1:]:
        label, _, value = field.partition("=")
        if label not in _OPTIONS or label in options:
            raise ConfigError(where, f"key {name}: unknown or repeated option {field!r}", fix)
        try:
            options[label] = _OPTIONS[label](value)
        except ValueError as error:
            raise ConfigError(where, f"key {name}: {error}", fix) from None
    return Key(**{"scopes": frozenset({"inference"}), **options}, name=name, digest=bytes.fromhex(match[1]))


def _scopes(text: str) -> frozenset[str]:
    scopes = frozenset(text.split(","))
    if not scopes <= set(_SCOPES):
        raise ValueError(f"unknown scope in {text!r}")
    return scopes


def _limit(text: str) -> int:
    if int(text) < 1:
        raise ValueError("a limit is below 1")
    return int(text)


_OPTIONS: dict[str, Callable[[str], Any]] = {
    **{"scopes": _scopes, "expires": date.fromisoformat},
    **dict.fromkeys(("rpm", "tpm", "streams"), _limit),
}


class APIKeyStore:
    """The keys of a key file. The file is checked for changes at most once a second; an invalid new version is ignored.

    Raises:
        ConfigError: the file cannot be read at startup.
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
        self._version = self._stat()
        self._keys = self._read()
        self._checked = clock()

    def find(self, secret: bytes) -> Key | None:
        """The key of a secret; None if it is unknown or has expired."""
        self._refresh()
        digest = _digest(secret)
        key = self._keys.get(digest[:16])
        # The lookup is by hash, whose bytes a caller cannot choose; the comparison takes constant time.
        if key is None or not hmac.compare_digest(key.digest, digest):
            return None
        if key.expires is not None and self._today() > key.expires:
            return None
        return key

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked < _CHECK_INTERVAL_S:
            return
        self._checked = now
        try:
            version = self._stat()
            if version == self._version:
                return
            self._keys, self._version = self._read(), version
            log.info("keys_reloaded", extra={"keys": len(self._keys)})
        except ConfigError as error:
            log.error("keys_reload_failed", extra={"where": error.where, "what": error.what})

    def _stat(self) -> tuple[int, int, int]:
        # The inode as well: a mounted Secret is replaced as a whole, and two versions may have the same size and time.
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


def extract_api_key(headers: RawHeaders) -> bytes | None:
    """The secret in ``Authorization: Bearer ...`` or ``x-api-key``; None if the request has neither."""
    authorization = first_header(headers, b"authorization")
    if authorization is None:
        return first_header(headers, b"x-api-key") or None
    scheme, _, secret = authorization.partition(b" ")
    return secret.strip() or None if scheme.lower() == b"bearer" else None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
