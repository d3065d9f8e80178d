"""One file, whole and checked: resumed where it broke off, renamed into place when every byte is right."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybridserve.errors import EnvironmentFault, ServiceError
from hybridserve.fetch.hub import Hub, Interrupted
from hybridserve.fetch.listing import RemoteFile

TRIES = 6
"""Tries without a single new byte before giving up."""
CHUNK = 1 << 20

Advance = Callable[[int], None]


class Cancelled(Exception):
    """Another file failed, or the user pressed Ctrl-C; what is on the disk stays for the next run."""


def intact(path: Path, file: RemoteFile) -> bool:
    """Whether the file on the disk is byte for byte the one of the commit."""
    try:
        if path.stat().st_size != file.size:
            return False
        hasher = file.hasher()
        _feed(hasher, path)
    except OSError:
        return False
    return bool(hasher.hexdigest() == file.digest)


def download(
    hub: Hub,
    repository: str,
    revision: str,
    file: RemoteFile,
    target: Path,
    advance: Advance,
    cancelled: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch `file` to `target`, by way of `target`.incomplete.

    Args:
        advance: told how many bytes were added; negative when what was there is thrown away.

    Raises:
        EnvironmentFault: the disk is full or not writable.
        ServiceError: the bytes are not those of the commit, or the server gives up.
        ConfigError: no right to read.
        Cancelled: `cancelled` said so.
    """
    partial = target.with_name(target.name + ".incomplete")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in ("resumed", "afresh"):
            kept = partial.stat().st_size if partial.exists() else 0
            if kept > file.size:
                partial.unlink()
                kept = 0
            advance(kept)
            _fill(hub, repository, revision, file, partial, advance, cancelled, sleep)
            if intact(partial, file):
                partial.replace(target)
                return
            partial.unlink()
            advance(-file.size)
            if not kept or attempt == "afresh":
                break
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentFault(
                str(target.parent), f"the disk is full at {file.path}", "make room, run it again"
            ) from None
        raise EnvironmentFault(
            str(target.parent), f"cannot write {file.path}: {error.strerror}", "check its owner"
        ) from None
    raise ServiceError(
        hub.endpoint,
        f"{file.path} is corrupt: its checksum is not the commit's {file.digest[:12]}",
        "run it again, or take another mirror",
    )


def _fill(
    hub: Hub,
    repository: str,
    revision: str,
    file: RemoteFile,
    partial: Path,
    advance: Advance,
    cancelled: Callable[[], bool],
    sleep: Callable[[float], None],
) -> None:
    """Append until the file has its size; a connection that breaks is taken up again where it broke."""
    failures = 0
    with partial.open("ab") as out:
        while (have := out.tell()) < file.size:
            try:
                _append(hub, repository, revision, file, out, advance, cancelled)
                if out.tell() < file.size:
                    raise Interrupted("the connection was closed early")
            except Interrupted as problem:
                failures = 0 if out.tell() > have else failures + 1
                if failures >= TRIES:
                    raise ServiceError(
                        hub.endpoint,
                        f"{file.path} broke off at {out.tell():,} of {file.size:,} bytes, {TRIES} tries: {problem}",
                        "run it again: it goes on from there",
                    ) from None
                sleep(problem.wait_s or min(0.5 * 2**failures, 15.0))
        out.flush()
        os.fsync(out.fileno())


def _append(
    hub: Hub,
    repository: str,
    revision: str,
    file: RemoteFile,
    out: Any,
    advance: Advance,
    cancelled: Callable[[], bool],
) -> None:
    have = out.tell()
    with hub.open(repository, revision, file, have) as (begins, chunks):
        if begins != have:
            out.truncate(begins)
            out.seek(begins)
            advance(begins - have)
        for chunk in chunks:
            if cancelled():
                raise Cancelled
            if out.tell() + len(chunk) > file.size:
                raise ServiceError(
                    hub.endpoint,
                    f"{file.path} is longer than the {file.size:,} bytes of the commit",
                    "take another mirror",
                )
            out.write(chunk)
            advance(len(chunk))


def _feed(hasher: Any, path: Path) -> None:
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            hasher.update(chunk)
