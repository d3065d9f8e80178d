"""A hub, or a mirror with the hub's layout: listings and byte ranges over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx

from hybridserve.errors import ConfigError, ServiceError
from hybridserve.fetch.listing import RemoteFile, parse_listing

HUB = "https://huggingface.co"
TIMEOUT = httpx.Timeout(30.0, read=60.0)
MAX_PAGES = 1000


class Interrupted(Exception):
    """The transfer broke off in a way that another try may cure.

    Attributes:
        wait_s: what the server asked to wait, in seconds.
    """

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Hub:
    """One repository host.

    Args:
        endpoint: its URL, as https://huggingface.co.
        token: access token for gated repositories; sent to this host only, never to where it redirects.
    """

    def __init__(self, endpoint: str, token: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise ConfigError("--mirror", f"{endpoint!r} is not an http or https URL", f"as {HUB}")
        self.endpoint = endpoint.rstrip("/")
        headers = {"Accept-Encoding": "identity", "User-Agent": "hybridserve"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT, follow_redirects=True, transport=transport)

    def close(self) -> None:
        self._client.close()

    def files(self, repository: str, revision: str) -> tuple[RemoteFile, ...]:
        """Every file of a commit.

        Raises:
            ConfigError: no such repository or revision, or no right to read it.
            ServiceError: the hub cannot be reached, or its answer makes no sense.
        """
        url: str | None = f"{self.endpoint}/api/models/{repository}/tree/{revision}?recursive=true"
        entries: list[Any] = []
        for _ in range(MAX_PAGES):
            if url is None:
                return parse_listing(entries, f"{repository} at {revision[:12]}")
            page, url = self._page(url, repository, revision)
            entries += page
        raise ServiceError(self.endpoint, f"the listing of {repository} does not end", "take another mirror")

    def commit_of(self, repository: str, branch: str) -> str | None:
        """The commit that a branch is at now; None when the hub does not say."""
        try:
            answer = self._client.get(f"{self.endpoint}/api/models/{repository}/revision/{branch}")
            found = answer.json().get("sha") if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError, AttributeError):
            return None
        return found if isinstance(found, str) else None

    @contextmanager
    def open(
        self, repository: str, revision: str, file: RemoteFile, start: int
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes of a file from `start` on, with the offset at which they really begin (0 where ranges are not had).

        Raises:
            Interrupted: worth another try.
            ConfigError, ServiceError: not worth one.
        """
        url = f"{self.endpoint}/{repository}/resolve/{revision}/{quote(file.path)}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._client.stream("GET", url, headers=headers) as answer:
                begins = self._begins(answer, repository, revision, file, start)
                yield begins, answer.iter_raw()
        except httpx.TransportError as error:
            raise Interrupted(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        except httpx.HTTPError as error:
            raise ServiceError(self.endpoint, f"{file.path}: {error}", "take another mirror") from None

    def _page(self, url: str, repository: str, revision: str) -> tuple[list[Any], str | None]:
        try:
            answer = self._client.get(url)
        except httpx.HTTPError as error:
            raise ServiceError(
                self.endpoint,
                f"cannot be reached: {error}",
                "check the network or the proxy, name a mirror with --mirror, or use --offline",
            ) from None
        self._refuse(answer, repository, revision)
        if answer.status_code != 200:
            raise ServiceError(self.endpoint, f"HTTP {answer.status_code} for the listing of {repository}", "try later")
        try:
            page = answer.json()
        except ValueError:
            page = None
        if not isinstance(page, list):
            raise ServiceError(self.endpoint, f"the listing of {repository} is not a JSON list", "take another mirror")
        following = answer.links.get("next", {}).get("url")
        if following is not None:
            following = urljoin(url, following)
            if urlsplit(following).netloc != urlsplit(self.endpoint).netloc:
                # A mirror that copies the hub's header: the same page, asked of the mirror.
                parts = urlsplit(following)
                following = f"{self.endpoint}{parts.path}?{parts.query}"
        return page, following

    def _begins(self, answer: httpx.Response, repository: str, revision: str, file: RemoteFile, start: int) -> int:
        self._refuse(answer, repository, revision)
        status = answer.status_code
        if status == 416:
            raise Interrupted("the server has no such range")
        if status == 429 or status >= 500:
            raise Interrupted(f"HTTP {status}", _seconds(answer.headers.get("Retry-After")))
        if status not in (200, 206):
            raise ServiceError(self.endpoint, f"HTTP {status} for {file.path}", "take another mirror")
        first = answer.history[0] if answer.history else answer
        commit = first.headers.get("X-Repo-Commit")
        if commit and commit != revision:
            raise ServiceError(
                self.endpoint,
                f"{file.path} is of commit {commit[:12]}, asked was {revision[:12]}",
                "take another mirror",
            )
        begins = _offset(answer.headers.get("Content-Range")) if status == 206 else 0
        if begins not in (0, start):
            raise ServiceError(
                self.endpoint, f"{file.path}: asked from byte {start}, got {begins}", "take another mirror"
            )
        length = answer.headers.get("Content-Length")
        if length is not None and begins + int(length) != file.size:
            raise ServiceError(
                self.endpoint,
                f"{file.path} has {begins + int(length):,} bytes, the commit says {file.size:,}",
                "take another mirror",
            )
        return begins

    def _refuse(self, answer: httpx.Response, repository: str, revision: str) -> None:
        """The answers that a user can do something about."""
        code = answer.headers.get("X-Error-Code", "")
        if answer.status_code in (401, 403):
            raise ConfigError(
                repository,
                f"{urlsplit(self.endpoint).netloc} refuses access (HTTP {answer.status_code})",
                "accept the model's terms there, then set HF_TOKEN or --token-file; a wrong name looks the same",
            )
        if answer.status_code == 404 and code != "EntryNotFound":
            if code == "RevisionNotFound":
                what, fix = (
                    f"there is no commit {revision}",
                    "give --revision a commit of 40 hex digits of this repository",
                )
            else:
                what, fix = f"no such repository or revision ({revision[:12]})", "check the name and --revision"
            raise ConfigError(repository, what, fix)


def _offset(content_range: str | None) -> int:
    text = (content_range or "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdecimal() else -1


def _seconds(retry_after: str | None) -> float:
    return min(float(retry_after), 60.0) if retry_after and retry_after.isdecimal() else 0.0
