"""The key files that settings name, as far as this machine has them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridserve.cli.helm_files import SECRET_FILES
from hybridserve.errors import ConfigError
from hybridserve.files import read_text
from hybridserve.settings import Settings

if TYPE_CHECKING:
    from hybridserve.gateway.auth.api_keys import Key


def key_file_notes(settings: Settings, day: date) -> list[str]:
    """What a person has to know about the key files, one line each; empty where all are here and usable.

    A file that is missing is no error: on the machine of the service it may be a mounted secret.

    Args:
        day: API keys that expire before it do not count.

    Raises:
        ConfigError: the file of API keys is here, and cannot be read or has a malformed line.
    """
    return list(_notes(settings.model_dump(), day))


def has_limits(file: str | None) -> bool:
    """Whether a key of the file has limits of its own; False where the file is not here or has a malformed line."""
    if not file or not _is_here(file):
        return False
    try:
        keys = _keys(file, "access.keys_file")
    except ConfigError:
        return False  # `check` reports it
    return any(key.rpm or key.tpm or key.streams for key in keys)


def _notes(tree: dict[str, Any], day: date) -> Iterator[str]:
    for path in SECRET_FILES:
        section, _, name = path.partition(".")
        file = tree[section][name]
        if not file:
            continue
        if not _is_here(file):
            yield f"{path} {file} is not here, so it was not read: the service needs it where it runs"
        elif path == "access.keys_file" and not _has_key(_keys(file, f"{path} {file}"), day):
            fix = f"make one with `hybridserve key new NAME --file {file}`"
            yield f"{path} {file} has no key that is valid on {day}, so requests with a key are refused: {fix}"


def _is_here(file: str) -> bool:
    return os.path.exists(file)  # noqa: PTH110 - Path.exists raises where a folder may not be read


def _keys(file: str, where: str) -> list[Key]:
    # Imported here only: the gateway takes long to import, and most machines that check have no key file.
    from hybridserve.gateway.auth.api_keys import parse_keys

    return parse_keys(read_text(Path(file), where), where)


def _has_key(keys: Iterable[Key], day: date) -> bool:
    return any(key.expires is None or key.expires >= day for key in keys)
