"""The key files that settings name, as far as this machine has them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from hybridserve.cli.helm_files import SECRET_FILES
from hybridserve.errors import ConfigError
from hybridserve.files import read_text
from hybridserve.settings import Settings


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
    """Whether a line of the file of API keys has limits of its own; False where the file cannot be read here."""
    if not file or not os.path.exists(file):  # noqa: PTH110 - as above
        return False
    try:
        text = read_text(Path(file), "access.keys_file")
    except ConfigError:
        return False  # `check` reports it
    return re.search(r"^[^#\n]*\s(rpm|tpm|streams)=", text, re.MULTILINE) is not None


def _notes(tree: dict[str, Any], day: date) -> Iterator[str]:
    for path in SECRET_FILES:
        section, _, name = path.partition(".")
        file = tree[section][name]
        if not file:
            continue
        if not os.path.exists(file):  # noqa: PTH110 - Path.exists raises where a folder may not be read
            yield f"{path} {file} is not here, so it was not read: the service needs it where it runs"
        elif path == "access.keys_file" and not _has_key(Path(file), f"{path} {file}", day):
            fix = f"make one with `hybridserve key new NAME --file {file}`"
            yield f"{path} {file} has no key that is valid on {day}, so requests with a key are refused: {fix}"


def _has_key(file: Path, where: str, day: date) -> bool:
    # Imported here only: the gateway takes long to import, and most machines that check have no key file.
    from hybridserve.gateway.auth.api_keys import parse_keys

    keys = parse_keys(read_text(file, where), where)
    return any(key.expires is None or key.expires >= day for key in keys)
