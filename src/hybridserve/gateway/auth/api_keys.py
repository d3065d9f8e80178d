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
from collections.abc import Callable, Iterator, Mapping
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
        anonymous: requests without a key, which may come from different people.
    """

    name: str
    scopes: frozenset[Scope]
    rpm: int | None = None
    tpm: int | None = None
    streams: int | None = None
    expires: date | None = None
    digest: bytes = b""
    internal: bool = False
    anonymous: bool = False


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


def parse_keys(text: str, where: str) -> list[Key]:
    """The keys of a file.

    Args:
        where: name of the file, for errors.

    Raises:
        ConfigError: a malformed line. The message does not repeat the hash.
    """
    keys, _, problems = _parse_lines(text, where)
    if problems:
        raise problems[0]
    return list(keys.values())


def keys_in_force(
    before: Mapping[str, Key], removed: frozenset[str], text: str, where: str
) -> tuple[dict[str, Key], frozenset[str], ConfigError | None]:
    """The keys after a change of the file, so that a broken file revokes keys but neither revives nor loses one.

    A correct file is taken as it is. Of a broken one, the correct lines are in force; a key whose line is malformed
    stays as it was; a name without a line is removed, and stays removed until the file is correct.

    Args:
        before: keys in force, by name; `removed` are names that broken versions have removed.

    Returns:
        The keys by name, the removed names, and the first error of the file.
    """
    keys, names, problems = _parse_lines(text, where)
    if not problems:
        return keys, frozenset(), None
    removed |= before.keys() - names
    kept = {**before, **keys}
    return {name: key for name, key in kept.items() if name in names - removed}, removed, problems[0]


def _parse_lines(text: str, where: str) -> tuple[dict[str, Key], set[str], list[ConfigError]]:
    """Keys of the correct lines by name, the names of all lines, and the errors of the others."""
    keys: dict[str, Key] = {}
    names: set[str] = set()
    problems: list[ConfigError] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            key = _parse_line(line, f"{where} line {number}")
            if key.name in names:
                where_, what = f"{where} line {number}", f"duplicate key name {key.name}"
                raise ConfigError(where_, what, "give each key its own name")
            keys[key.name] = key
        except ConfigError as error:
            problems.append(error)
        names.add(line.split()[0])
    return keys, names, problems


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
        # The field itself is not repeated: it may be a key in plain text.
        if label not in _OPTIONS or label in options:
            raise ConfigError(where, f"key {name}: unknown or repeated option number {len(options) + 1}", fix)
        try:
            options[label] = _OPTIONS[label](value)
        except ValueError:
            raise ConfigError(where, f"key {name}: the value of {label} is not valid", fix) from None
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
    """The keys of a key file, which is checked for changes at most once a second.

    A broken new version is used as `keys_in_force` says; without the file, the keys stay as they are.

    Attributes:
        problem: what is wrong with the file now; None if nothing is.

    Raises:
        ConfigError: the file cannot be read at startup, or is malformed.
    """

    def __init__(
        self,
        file: Path,
        clock: Callable[[], float] = monotonic,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._file = file
        self._where = f"access.keys_file {file}"
        self._clock = clock
        self._today = today
        self._version: tuple[int, int, int] | None = self._stat()
        self._keys = {key.name: key for key in parse_keys(self._read(), self._where)}
        self._removed: frozenset[str] = frozenset()
        self._by_digest = _by_digest(self._keys)
        self._checked = clock()
        self.problem: ConfigError | None = None

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def find(self, secret: bytes) -> Key | None:
        """The key of a secret; None if it is unknown or has expired."""
        self.refresh()
        digest = _digest(secret)
        key = self._by_digest.get(digest[:16])
        # The lookup is by hash, whose bytes a caller cannot choose; the comparison takes constant time.
        if key is None or not hmac.compare_digest(key.digest, digest):
            return None
        if key.expires is not None and self._today() > key.expires:
            return None
        return key

    def refresh(self) -> ConfigError | None:
        """Read the file again if it has changed; returns `problem`."""
        now = self._clock()
        if now - self._checked < _CHECK_INTERVAL_S:
            return self.problem
        self._checked = now
        before = self.problem
        try:
            version = self._stat()
            if version == self._version:
                return self.problem
            text = self._read()
        except ConfigError as error:
            self._version, self.problem = None, error
        else:
            keys, self._removed, self.problem = keys_in_force(self._keys, self._removed, text, self._where)
            self._keys, self._by_digest, self._version = keys, _by_digest(keys), version
            log.info("keys_reloaded", extra={"keys": len(keys)})
        if self.problem is not None and str(self.problem) != str(before):
            log.error("keys_reload_failed", extra={"where": self.problem.where, "what": self.problem.what})
        return self.problem

    def _stat(self) -> tuple[int, int, int]:
        # The inode as well: a mounted Secret is replaced as a whole, and two versions may have the same size and time.
        try:
            status = self._file.stat()
        except OSError as error:
            raise self._unreadable(error) from None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> ConfigError:
        return ConfigError(self._where, f"cannot be read: {error.strerror}", "create it with `hybridserve key new`")


def _by_digest(keys: Mapping[str, Key]) -> dict[bytes, Key]:
    """Keys by the first half of their digest."""
    return {key.digest[:16]: key for key in keys.values()}


def extract_api_key(headers: RawHeaders) -> bytes | None:
    """The secret in ``Authorization: Bearer ...`` or ``x-api-key``; None if the request has neither."""
    authorization = first_header(headers, b"authorization")
    if authorization is None:
        return first_header(headers, b"x-api-key") or None
    scheme, _, secret = authorization.partition(b" ")
    return secret.strip() or None if scheme.lower() == b"bearer" else None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
