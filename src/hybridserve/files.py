"""Read and write text files with errors that name the setting or the file."""

from __future__ import annotations

from pathlib import Path

from hybridserve.errors import ConfigError, HybridServeError


def read_text(
    path: Path, where: str, fix: str = "give an existing file", kind: type[HybridServeError] = ConfigError
) -> str:
    """The text of a UTF-8 file.

    Args:
        where: the setting or option that an error names.
        fix: what an error tells the user to do.
        kind: class of the error.

    Raises:
        HybridServeError: of class `kind`: the file cannot be read, or is not UTF-8.
    """
    name = "" if str(path) in where else f"{path} "
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise kind(where, f"{name}cannot be read: {error.strerror}", fix) from None
    except UnicodeDecodeError:
        raise kind(where, f"{name}is not UTF-8 text", "save it as UTF-8") from None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written: {error.strerror}", "give a writable path") from None
