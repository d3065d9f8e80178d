"""`hybridserve key new | hash`: lines for the key file."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hybridserve.cli.options import AsJson
from hybridserve.errors import ConfigError
from hybridserve.gateway.auth.api_keys import key_line, new_key, parse_keys

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Create API keys. Only their hashes are stored.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key in the key file and in logs.")]
Scopes = Annotated[str, typer.Option("--scopes", help="Comma-separated: inference, metrics, admin.")]
Rpm = Annotated[int | None, typer.Option("--rpm", min=1, help="Requests per minute.")]
Tpm = Annotated[int | None, typer.Option("--tpm", min=1, help="Prompt and output tokens per minute.")]
Streams = Annotated[int | None, typer.Option("--streams", min=1, help="Concurrent requests.")]
Expires = Annotated[
    datetime | None, typer.Option("--expires", formats=["%Y-%m-%d"], help="Last day on which the key is valid.")
]
File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Append the line to this key file.")]


@app.command()
def new(
    name: Name,
    scopes: Scopes = "inference",
    rpm: Rpm = None,
    tpm: Tpm = None,
    streams: Streams = None,
    expires: Expires = None,
    file: File = None,
    as_json: AsJson = False,
) -> None:
    """Create a key. It is printed once, here; the key file contains only its hash.

    Example: hybridserve key new alice --rpm 60 --file keys.txt
    """
    key = new_key()
    line = _line(name, key, scopes, rpm, tpm, streams, expires, file)
    if as_json:
        typer.echo(json.dumps({"name": name, "key": key, "line": line, "file": None if file is None else str(file)}))
        return
    typer.echo(key)
    typer.echo(f"line for the key file: {line}" if file is None else f"added to {file}", err=True)


@app.command("hash")
def hash_(
    name: Name,
    scopes: Scopes = "inference",
    rpm: Rpm = None,
    tpm: Tpm = None,
    streams: Streams = None,
    expires: Expires = None,
    file: File = None,
    as_json: AsJson = False,
) -> None:
    """Create the line of an existing key. The key is read from standard input, so that no shell history stores it.

    Example: hybridserve key hash alice --file keys.txt < alice.key
    """
    line = _line(name, sys.stdin.read().strip(), scopes, rpm, tpm, streams, expires, file)
    if as_json:
        typer.echo(json.dumps({"name": name, "line": line, "file": None if file is None else str(file)}))
    else:
        typer.echo(line if file is None else f"added to {file}", err=file is not None)


def _line(
    name: str,
    key: str,
    scopes: str,
    rpm: int | None,
    tpm: int | None,
    streams: int | None,
    expires: datetime | None,
    file: Path | None,
) -> str:
    last_day = None if expires is None else expires.date()
    if last_day is not None and last_day < (today := datetime.now(UTC).date()):
        raise ConfigError("--expires", f"{last_day} is past (UTC), and the key would never work", f"{today} or later")
    line = key_line(name, key, tuple(scopes.split(",")), rpm=rpm, tpm=tpm, streams=streams, expires=last_day)
    if file is not None:
        _append(file, name, line)
    return line


def _append(file: Path, name: str, line: str) -> None:
    """Rewrite the file and move it into place, so that no server reads an incomplete line."""
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        if before and not before.endswith("\n"):
            before += "\n"
        if any(key.name == name for key in parse_keys(before, str(file))):
            raise ConfigError("NAME", f"{file} has a key {name} already", "another name, or remove its line first")
        text = f"{before}{line}\n"
        parse_keys(text, str(file))
        replacement = file.with_name(f".{file.name}.new")
        replacement.touch(mode=0o600)
        replacement.write_text(text, encoding="utf-8")
        replacement.replace(file)
    except OSError as error:
        raise ConfigError(str(file), f"cannot be written: {error.strerror}", "give a writable file") from None
