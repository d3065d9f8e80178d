"""`hybridserve fetch`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from hybridserve.catalog.licenses import model_license
from hybridserve.catalog.models import resolve_model
from hybridserve.cli.options import AsJson
from hybridserve.errors import CatalogError, ConfigError
from hybridserve.fetch.downloader import Fetched, Watcher, check_offline, fetch
from hybridserve.fetch.hub import HUB, Hub
from hybridserve.fetch.listing import COMMIT, REPOSITORY, RemoteFile
from hybridserve.fetch.store import CacheStore, FolderStore, Store, default_cache
from hybridserve.units import GIB

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Download weights at their pinned commit.")


@app.command()
def main(
    model: Annotated[str, typer.Argument(help="Catalogue id, or a repository such as org/name.")],
    revision: Annotated[str | None, typer.Option(help="Commit, 40 hex digits; the catalogue's when empty.")] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Hub cache to fill; HF_HUB_CACHE or the home's when empty.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A plain folder instead of a cache, for model.source.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help=f"Host with the hub's layout; HF_ENDPOINT, or {HUB}.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with an access token; HF_TOKEN when empty.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use no network: check what is on the disk.")] = False,
    parallel: Annotated[int, typer.Option(min=1, max=32, help="Files that are fetched at a time.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Download a model's files at one commit, check every byte, and go on where an earlier run broke off.

    \b
    Examples:
      hybridserve fetch nemotron-3-super-120b-a12b
      hybridserve fetch org/name --revision COMMIT --to /models/name --mirror http://mirror.example
      hybridserve fetch nemotron-3-super-120b-a12b --offline
    """
    if cache is not None and to is not None:
        raise ConfigError("--to", "is given together with --cache", "give one of them")
    repository, pinned = _named(model)
    if repository is None:
        _tell_packaged(model, as_json)
        return
    revision = revision or pinned
    hub = Hub(mirror or os.environ.get("HF_ENDPOINT") or HUB, _token(token_file))
    try:
        commit = _commit(hub, model, repository, revision, offline)
        store: Store = FolderStore(to) if to is not None else CacheStore(cache or default_cache(), repository, commit)
        if offline:
            done = check_offline(repository, commit, store)
        else:
            with _Bars(quiet=as_json) as bars:
                done = fetch(hub, repository, commit, store, watcher=bars, parallel=parallel)
    finally:
        hub.close()
    _report(done, repository, commit, to, as_json)


def _named(model: str) -> tuple[str | None, str | None]:
    """Repository and pinned commit. No repository: the model's files come with this package.

    Where the model's facts name no commit it is the one whose license was read: of another nobody knows the terms.
    """
    try:
        found = resolve_model(model)
    except CatalogError:
        if REPOSITORY.fullmatch(model):
            return model, None
        raise
    if found.card is None:
        raise ConfigError("MODEL", f"{model} is a folder", "nothing is to be fetched: give it as model.source")
    known = model_license(found.card.id)
    return found.card.repository, found.card.revision or (known.revision if known else None)


def _commit(hub: Hub, model: str, repository: str, revision: str | None, offline: bool) -> str:
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    now = None if offline else hub.commit_of(repository, revision or "main")
    fix = f"read the terms at that commit, then give --revision {now or 'COMMIT'}"
    at = f"; it is at {now} now" if now else ""
    if revision is None:
        raise ConfigError("--revision", f"no commit of {repository} is pinned for {model}, and main moves{at}", fix)
    raise ConfigError("--revision", f"{revision!r} is not a commit: it moves{at}", fix)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("HF_TOKEN") or None
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError as error:
        raise ConfigError("--token-file", f"{file} cannot be read: {error.strerror}", "give a readable file") from None


def _tell_packaged(model: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"model": model, "repository": None, "files": 0, "bytes": 0, "downloaded_bytes": 0}))
    else:
        typer.echo(f"{model} comes with this package: nothing to fetch")


def _report(done: Fetched, repository: str, commit: str, to: Path | None, as_json: bool) -> None:
    if as_json:
        told = {
            "repository": repository,
            "revision": commit,
            "folder": str(done.folder),
            "files": done.files,
            "bytes": done.bytes,
            "downloaded_bytes": done.downloaded_bytes,
            "left_out": list(done.left_out),
        }
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(f"{done.files} files, {done.bytes / GIB:.2f} GiB, every checksum right: {done.folder}")
    if done.left_out:
        typer.echo(f"left out, the same weights in another form: {', '.join(done.left_out)}")
    if to is not None:
        typer.echo(f"use it with: --set model.source={done.folder}")
    else:
        typer.echo(f"use it with: HF_HUB_OFFLINE=1, --set model.revision={commit}")


class _Bars(Watcher):
    """A bar for all bytes on a terminal; a line a file elsewhere; nothing beside JSON."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._live,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begins(self, missing: int, present: int, total_bytes: int) -> None:
        self._say(f"{missing} files to fetch, {total_bytes / GIB:.2f} GiB; {present} are there and right")
        self._task = self._progress.add_task("fetch", total=total_bytes)

    def advance(self, file: RemoteFile, count: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, count)

    def done(self, file: RemoteFile) -> None:
        if not self._live:
            self._say(f"{file.path}: {file.size:,} bytes, {file.kind} {file.digest[:12]}")

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._progress.console.print(text, highlight=False, soft_wrap=True)


__all__ = ["app"]
