"""A constant number of concurrent streams, and the outcome of every request."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import httpx

# finished: the client received [DONE]. error_returned: the server returned an error, as a status or an event.
# connection_broken: the connection ended in the middle of the response. refused: the client could not connect.
# ended_without_done: the body ended normally, but without [DONE] and without an error.
Outcome = Literal["finished", "error_returned", "connection_broken", "ended_without_done", "refused"]


@dataclass(slots=True)
class RequestRecord:
    """One request and how it ended. Times are seconds of `time.monotonic`."""

    sent: float
    ended: float = 0.0
    chunks: int = 0
    outcome: Outcome = "ended_without_done"
    reason: str = ""


@dataclass
class RequestLog:
    """All requests of one run."""

    entries: list[RequestRecord] = field(default_factory=list)
    open: set[int] = field(default_factory=set)

    def ended_since(self, seconds: float) -> list[RequestRecord]:
        """Requests that ended within the last `seconds`."""
        return [entry for entry in self.entries if entry.ended >= time.monotonic() - seconds]

    def counts(self) -> Counter[str]:
        return Counter(entry.outcome for entry in self.entries)

    def failed(self) -> list[RequestRecord]:
        return [entry for entry in self.entries if entry.outcome != "finished"]


class LoadGenerator:
    """Clients that stream chat completions: each sends its next request when the previous one has ended.

    After a failure a client waits 0.3 s, like a client that honors Retry-After, and goes on with a new request.
    """

    def __init__(self, url: str, clients: int = 6, tokens: int = 60, headers: dict[str, str] | None = None) -> None:
        self.log = RequestLog()
        self.clients = clients
        self._body = {
            "model": "demo", "messages": [{"role": "user", "content": "What is this?"}], "max_tokens": tokens,
            "min_tokens": tokens, "ignore_eos": True, "stream": True,
        }  # fmt: skip
        limits = httpx.Limits(max_connections=clients + 2)
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits)
        self._stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> LoadGenerator:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped.set()
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    async def wait_for_finished(self, count: int, timeout_s: float) -> None:
        """Wait until `count` more requests have finished."""
        goal = self.log.counts()["finished"] + count
        deadline = time.monotonic() + timeout_s
        while self.log.counts()["finished"] < goal:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.log.counts()} after {timeout_s:g} s")
            await asyncio.sleep(0.05)

    async def _client(self) -> None:
        while not self._stopped.is_set():
            entry = RequestRecord(time.monotonic())
            self.log.open.add(id(entry))
            try:
                await self._send(entry)
            except httpx.ConnectError as error:
                entry.outcome, entry.reason = "refused", type(error).__name__
            except (httpx.HTTPError, OSError) as error:
                entry.outcome, entry.reason = "connection_broken", type(error).__name__
            entry.ended = time.monotonic()
            self.log.open.discard(id(entry))
            self.log.entries.append(entry)
            if entry.outcome != "finished":
                await asyncio.sleep(0.3)

    async def _send(self, entry: RequestRecord) -> None:
        async with self._http.stream("POST", "/v1/chat/completions", json=self._body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                entry.outcome, entry.reason = "error_returned", f"{response.status_code} {_code(text)}"
                return
            async for line in response.aiter_lines():
                if line == "data: [DONE]" and entry.outcome == "ended_without_done":
                    entry.outcome = "finished"
                elif line.startswith("data: {"):
                    entry.chunks += 1
                    if '"error"' in line:
                        entry.outcome, entry.reason = "error_returned", f"event {_code(line[6:])}"


def _code(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return text[:80]
