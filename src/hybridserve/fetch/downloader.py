"""Download a commit: list its files, check the disk, download what is missing, verify, publish."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers

from hybridserve.errors import ConfigError, EnvironmentFault, ServiceError
from hybridserve.fetch.files import RemoteFile, Store, check_files, free_bytes, partial_path, select_files
from hybridserve.units import GIB

ATTEMPTS = 6
"""Requests for a file while the server answers with 5xx."""
MARGIN_BYTES = 256 * 2**20
"""Space that stays free for records, links and other writers."""


class Cancelled(Exception):
    """Another download failed, or the user pressed Ctrl-C. Partial files stay for the next run."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is on disk after a fetch.

    Attributes:
        folder: the path for a model loader: the snapshot, or the plain folder.
        files: number of files of the commit that are there.
        bytes: their total size.
        downloaded_bytes: size of what was missing at the start.
        left_out: files of the commit that were not downloaded.
    """

    folder: Path
    files: int
    bytes: int
    downloaded_bytes: int
    left_out: tuple[str, ...] = ()


class Hub:
    """A model hub, or a mirror with the hub's API.

    Args:
        endpoint: its URL.
        token: access token for gated repositories.

    Raises:
        ConfigError: the endpoint is not an HTTP URL.
    """

    def __init__(self, endpoint: str, token: str | None = None) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise ConfigError("--mirror", f"{endpoint!r} is not an http or https URL", "for example https://HOST")
        self.endpoint = endpoint.rstrip("/")
        self._api = HfApi(self.endpoint, token=token or False, library_name="hybridserve")
        # Compressed content has no offset to resume from.
        self._headers = {**build_hf_headers(token=token or False), "Accept-Encoding": "identity"}

    def files(self, repository: str, revision: str) -> tuple[RemoteFile, ...]:
        """The files of a commit.

        Raises:
            ConfigError: unknown repository or commit, or no access.
            ServiceError: the hub cannot be reached, or its file list is invalid.
        """
        where = f"{repository} at {revision[:12]}"
        with self.errors(repository, revision):
            try:
                entries = list(self._api.list_repo_tree(repository, recursive=True, revision=revision))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ServiceError(where, f"the file list is invalid: {error!r}", "use another mirror") from None
        return check_files([_remote_file(entry) for entry in entries if isinstance(entry, RepoFile)], where)

    def commit_of(self, repository: str, branch: str) -> str:
        """The commit of a branch.

        Raises:
            ConfigError: unknown repository or branch, or no access.
            ServiceError: the hub cannot be reached, or its answer has no commit.
        """
        with self.errors(repository, branch):
            commit: str | None = self._api.model_info(repository, revision=branch).sha
        if commit is None:
            raise ServiceError(self.endpoint, "the answer has no commit", "use another mirror")
        return commit

    def append(self, repository: str, revision: str, file: RemoteFile, out: IO[bytes], stop: threading.Event) -> None:
        """Append the missing bytes of a file. `http_get` retries broken connections; 5xx is retried here."""
        url = hf_hub_url(repository, file.path, revision=revision, endpoint=self.endpoint)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                limited = _LimitedFile(out, file.size, stop)
                http_get(
                    url,
                    limited,
                    resume_size=out.tell(),
                    headers=dict(self._headers),
                    expected_size=file.size,
                    displayed_filename=file.path,
                )
                return
            except HfHubHTTPError as error:
                if error.response.status_code < 500 or attempt == ATTEMPTS:
                    raise
                time.sleep(min(0.5 * 2**attempt, 15.0))

    @contextmanager
    def errors(self, repository: str, revision: str) -> Iterator[None]:
        """Raise the hub's errors as errors with a place and a fix."""
        try:
            yield
        except OfflineModeIsEnabled:
            raise ConfigError("HF_HUB_OFFLINE", "disables the network", "unset it, or use --offline") from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                problem = f"{urlsplit(self.endpoint).netloc} denies access (HTTP {status})"
                fix = "accept the model's terms there and set HF_TOKEN or --token-file; or correct the name"
            elif isinstance(error, RevisionNotFoundError):
                problem, fix = f"there is no commit {revision}", "set --revision to a commit of this repository"
            elif status == 404:
                problem, fix = f"no such repository or revision ({revision[:12]})", "check the name and --revision"
            else:
                raise ServiceError(self.endpoint, f"HTTP {status}", "run it again later; it resumes") from None
            raise ConfigError(repository, problem, fix) from None
        except ValueError as error:
            raise ServiceError(self.endpoint, str(error).strip(), "use another mirror") from None
        except httpx2.HTTPError as error:
            fix = "check the network or the proxy, set --mirror, or use --offline; a new run resumes the download"
            raise ServiceError(self.endpoint, f"cannot be reached: {error}", fix) from None


class _LimitedFile:
    """The output file of `http_get`: no more bytes than the file has, and none after another download failed."""

    def __init__(self, out: IO[bytes], size: int, stop: threading.Event) -> None:
        self._out, self._size, self._stop = out, size, stop
        self.tell, self.seek, self.truncate = out.tell, out.seek, out.truncate

    def write(self, chunk: bytes) -> int:
        if self._stop.is_set():
            raise Cancelled
        if self._out.tell() + len(chunk) > self._size:
            raise OSError(f"the server sends more than {self._size:,} bytes")
        return self._out.write(chunk)


def _remote_file(entry: RepoFile) -> RemoteFile:
    if entry.lfs is None:
        return RemoteFile(entry.path, entry.size, entry.blob_id, "git")
    return RemoteFile(entry.path, entry.lfs.size, str(entry.lfs.sha256).removeprefix("sha256:"), "sha256")


def download_file(
    hub: Hub, repository: str, revision: str, file: RemoteFile, target: Path, stop: threading.Event
) -> None:
    """Download one file to `target`, resuming from its partial file.

    Raises:
        EnvironmentFault: the disk is full or not writable.
        ServiceError: the bytes differ from the commit's, or the transfer keeps failing.
        ConfigError: no access.
        Cancelled: `stop` was set.
    """
    partial = partial_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = partial.exists() and partial.stat().st_size > 0
        # A partial file of an earlier run may be corrupt: then download again from the start, once.
        for _ in range(2 if resumed else 1):
            with hub.errors(repository, revision), partial.open("ab") as out:
                if out.tell() > file.size:
                    out.truncate(0)
                hub.append(repository, revision, file, out, stop)
            if file.matches(partial):
                partial.replace(target)
                return
            partial.unlink()
    except OSError as error:
        if error.errno is None:
            raise ServiceError(hub.endpoint, f"{file.path}: {error}".splitlines()[0], "use another mirror") from None
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = f"the disk is full at {file.path}" if full else f"cannot write {file.path}: {error.strerror}"
        fix = "free some space and run it again" if full else "check its owner"
        raise EnvironmentFault(str(target.parent), problem, fix) from None
    raise ServiceError(
        hub.endpoint,
        f"{file.path} is corrupt: its checksum is not the commit's {file.digest[:12]}",
        "run it again, or use another mirror",
    )


def fetch(
    hub: Hub,
    store: Store,
    *,
    report: Callable[[str], None] = lambda _: None,
    parallel: int = 4,
    free: Callable[[Path], int] = free_bytes,
) -> Fetched:
    """Download a commit.

    Args:
        report: called with a line of text at the start and after each file.
        parallel: number of simultaneous downloads.

    Raises:
        ConfigError: unknown repository or commit, or no access.
        ServiceError: the hub fails, or sends wrong bytes.
        EnvironmentFault: not enough space, or not writable.
    """
    files, left_out = select_files(hub.files(store.repository, store.revision))
    with store.exclusive():
        # A blob may have several paths: each content is downloaded once.
        missing = {store.path(file): file for file in files if not file.matches(store.path(file))}
        partials = [path for path in map(partial_path, missing) if path.exists()]
        needed = sum(file.size for file in missing.values()) - sum(path.stat().st_size for path in partials)
        available = free(store.root)
        if missing and needed + MARGIN_BYTES > available:
            raise EnvironmentFault(
                str(store.root),
                f"the download needs {needed / GIB:.2f} GiB, {available / GIB:.2f} GiB are free "
                f"({MARGIN_BYTES / GIB:.2f} GiB must stay free)",
                "free some space, or use another disk with --cache or --to",
            )
        report(f"{len(missing)} files to download, {needed / GIB:.2f} GiB; {len(files) - len(missing)} are complete")
        _download_all(hub, store, missing, report, parallel)
        store.write_record(files)
        folder = store.publish(files)
    return Fetched(folder, len(files), sum(file.size for file in files), needed, tuple(file.path for file in left_out))


def verify_offline(store: Store) -> Fetched:
    """Verify every byte of an earlier fetch, without a network.

    Raises:
        EnvironmentFault: never fetched, or a file is missing or damaged.
    """
    files = store.read_record()
    if damaged := [file.path for file in files if not file.matches(store.path(file))]:
        raise EnvironmentFault(
            str(store.root),
            f"{len(damaged)} of {len(files)} files are missing or damaged: {', '.join(damaged[:3])}",
            "run it once without --offline: only these are downloaded",
        )
    return Fetched(store.publish(files), len(files), sum(file.size for file in files), 0)


def _download_all(
    hub: Hub,
    store: Store,
    files: dict[Path, RemoteFile],
    report: Callable[[str], None],
    parallel: int,
) -> None:
    stop = threading.Event()

    def download(target: Path, file: RemoteFile) -> None:
        if stop.is_set():
            raise Cancelled
        download_file(hub, store.repository, store.revision, file, target, stop)
        report(f"{file.path}: {file.size:,} bytes, {file.kind} {file.digest[:12]}")

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        jobs = [pool.submit(download, target, file) for target, file in files.items()]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    errors = [error for job in jobs if (error := job.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
        raise error
