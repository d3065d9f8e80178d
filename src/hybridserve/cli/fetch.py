"""`hybridserve fetch`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridserve.catalog.licenses import pinned_commit
from hybridserve.catalog.models import resolve_model
from hybridserve.cli.options import AsJson
from hybridserve.errors import CatalogError, ConfigError, ServiceError
from hybridserve.units import GIB

if TYPE_CHECKING:
    from hybridserve.fetch.downloader import Fetched, Hub

HUB = "https://huggingface.co"
app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Download model weights at a pinned commit.")


@app.command()
def main(
    model: Annotated[str, typer.Argument(help="Catalog id, or a repository such as org/name.")],
    revision: Annotated[str | None, typer.Option(help="Commit, 40 hex digits. Default: the catalog's.")] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Hub cache to fill. Default: HF_HUB_CACHE, or HF_HOME/hub.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A plain folder instead of a cache, for model.source.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help=f"Hub or mirror. Default: HF_ENDPOINT, or {HUB}.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with an access token. Default: HF_TOKEN.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Verify the files on disk; use no network.")] = False,
    parallel: Annotated[int, typer.Option(min=1, max=32, help="Simultaneous downloads.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Download a model's files at one commit, verify their checksums, and resume interrupted downloads.

    \b
    Examples:
      hybridserve fetch nemotron-3-super-120b-a12b
      hybridserve fetch org/name --revision COMMIT --to /models/name --mirror http://mirror.example
      hybridserve fetch nemotron-3-super-120b-a12b --offline
    """
    if cache is not None and to is not None:
        raise ConfigError("--to", "cannot be combined with --cache", "use one of them")
    repository, pinned = _repository(model)
    if repository is None:
        if as_json:
            typer.echo(json.dumps({"model": model, "repository": None, "files": 0, "bytes": 0, "downloaded_bytes": 0}))
        else:
            typer.echo(f"{model} comes with this package: nothing to fetch")
        return
    # Imported here: `--help` and errors in the arguments need no HTTP client.
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars, logging

    from hybridserve.fetch.downloader import Hub, fetch, verify_offline
    from hybridserve.fetch.files import Store

    logging.set_verbosity_error()
    (enable_progress_bars if sys.stderr.isatty() and not as_json else disable_progress_bars)()
    hub = Hub(mirror or os.environ.get("HF_ENDPOINT") or HUB, _token(token_file))
    commit = _commit(hub, model, repository, revision or pinned, offline)
    store = Store(to or cache or Path(constants.HF_HUB_CACHE), repository, commit, plain=to is not None)
    report: Callable[[str], None] = lambda line: None if as_json else typer.echo(line, err=True)  # noqa: E731
    fetched = verify_offline(store) if offline else fetch(hub, store, report=report, parallel=parallel)
    _print(fetched, repository, commit, to, as_json)


def _repository(model: str) -> tuple[str | None, str | None]:
    """Repository and pinned commit; no repository for a model that comes with this package.

    When the model's facts pin no commit, it is the commit whose license was reviewed: the terms of others are unknown.
    """
    from hybridserve.fetch.files import REPOSITORY

    try:
        found = resolve_model(model)
    except CatalogError:
        if REPOSITORY.fullmatch(model):
            return model, None
        raise
    if found.card is None:
        raise ConfigError("MODEL", f"{model} is a folder", "set it as model.source: nothing needs to be fetched")
    return found.card.repository, pinned_commit(found)


def _commit(hub: Hub, model: str, repository: str, revision: str | None, offline: bool) -> str:
    """The pinned commit. A branch is refused, with the commit that it points to, or why the hub did not name it."""
    from hybridserve.fetch.files import COMMIT

    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    branch = revision or "main"
    problem = (
        f"no commit of {repository} is pinned for {model}" if revision is None else f"{revision!r} is not a commit"
    )
    if offline:
        reason = "--offline asks no hub"
    else:
        try:
            current = hub.commit_of(repository, branch)
        except ServiceError as error:
            reason = f"{error.where} {error.what}"
        else:
            fix = f"review the license at that commit, then set --revision {current}"
            raise ConfigError("--revision", f"{problem}; {branch} is at {current}", fix)
    raise ConfigError(
        "--revision",
        f"{problem}, and the one of {branch} is not known: {reason}",
        f"run `hybridserve fetch {model} --revision {branch}` where a hub or mirror (--mirror URL) answers: it names "
        "the commit; review the license at it, then set --revision COMMIT",
    )


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("HF_TOKEN") or None
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError as error:
        raise ConfigError("--token-file", f"{file} cannot be read: {error.strerror}", "use a readable file") from None


def _print(fetched: Fetched, repository: str, commit: str, to: Path | None, as_json: bool) -> None:
    if as_json:
        result = {
            "repository": repository,
            "revision": commit,
            "folder": str(fetched.folder),
            "files": fetched.files,
            "bytes": fetched.bytes,
            "downloaded_bytes": fetched.downloaded_bytes,
            "left_out": list(fetched.left_out),
        }
        typer.echo(json.dumps(result, indent=2))
        return
    typer.echo(f"{fetched.files} files, {fetched.bytes / GIB:.2f} GiB, all checksums match: {fetched.folder}")
    if fetched.left_out:
        typer.echo(f"left out (the same weights in another format): {', '.join(fetched.left_out)}")
    use = f"--set model.source={fetched.folder}" if to else f"HF_HUB_OFFLINE=1, --set model.revision={commit}"
    typer.echo(f"use it with: {use}")


__all__ = ["app"]
