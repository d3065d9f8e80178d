"""A steady load of streams, and a record of the outcome of every request."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import httpx

# finished: [DONE] was read. reported: the server reported a failure, as a status or an event. cut: the connection
# broke. refused: no connection. lost: the body ended like a complete one, without [DONE].
Outcome = Literal["finished", "reported", "cut", "lost", "refused"]


@dataclass(slots=True)
class Entry:
    """One request. Times are seconds of `time.monotonic`."""

    sent: float
    ended: float = 0.0
    chunks: int = 0
    outcome: Outcome = "lost"
    reason: str = ""


@dataclass
class Ledger:
    """All requests of one run."""

    entries: list[Entry] = field(default_factory=list)
    open: set[int] = field(default_factory=set)

    def ended_since(self, seconds: float) -> list[Entry]:
        """Requests that ended within the last `seconds`."""
        return [entry for entry in self.entries if entry.ended >= time.monotonic() - seconds]

    def counts(self) -> Counter[str]:
        return Counter(entry.outcome for entry in self.entries)

    def failed(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.outcome != "finished"]


class Load:
    """Clients in a closed loop of streamed chat completions.

    After a failure a client waits 0.3 s, as one that honors Retry-After; it does not repeat the request.
    """

    def __init__(self, url: str, clients: int = 6, tokens: int = 60, headers: dict[str, str] | None = None) -> None:
        self.ledger = Ledger()
        self.clients = clients
        self._body = {
            "model": "demo", "messages": [{"role": "user", "content": "What is this?"}], "max_tokens": tokens,
            "min_tokens": tokens, "ignore_eos": True, "stream": True,
        }  # fmt: skip
        limits = httpx.Limits(max_connections=clients + 2)
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits)
        self._stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped.set()
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    async def finished(self, count: int, timeout_s: float) -> None:
        """Wait until `count` more requests have finished."""
        goal = self.ledger.counts()["finished"] + count
        deadline = time.monotonic() + timeout_s
        while self.ledger.counts()["finished"] < goal:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.ledger.counts()} after {timeout_s:g} s")
            await asyncio.sleep(0.05)

    async def _client(self) -> None:
        while not self._stopped.is_set():
            entry = Entry(time.monotonic())
            self.ledger.open.add(id(entry))
            try:
                await self._send(entry)
            except httpx.ConnectError as error:
                entry.outcome, entry.reason = "refused", type(error).__name__
            except (httpx.HTTPError, OSError) as error:
                entry.outcome, entry.reason = "cut", type(error).__name__
            entry.ended = time.monotonic()
            self.ledger.open.discard(id(entry))
            self.ledger.entries.append(entry)
            if entry.outcome != "finished":
                await asyncio.sleep(0.3)

    async def _send(self, entry: Entry) -> None:
        async with self._http.stream("POST", "/v1/chat/completions", json=self._body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                entry.outcome, entry.reason = "reported", f"{response.status_code} {_code(text)}"
                return
            async for line in response.aiter_lines():
                if line == "data: [DONE]" and entry.outcome == "lost":
                    entry.outcome = "finished"
                elif line.startswith("data: {"):
                    entry.chunks += 1
                    if '"error"' in line:
                        entry.outcome, entry.reason = "reported", f"event {_code(line[6:])}"


def _code(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return text[:80]
