"""A steady load of streams, and a ledger of what became of every request."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import httpx

# `finished`: [DONE] was read. `told`: the server said so, as a status or an event. `cut`: the connection
# broke, which no client takes for an end. `silent`: the body ended like a whole one, without [DONE]: a lost request.
Outcome = Literal["finished", "told", "cut", "silent", "refused"]


@dataclass(slots=True)
class Entry:
    """One request. Times are seconds of `time.monotonic`."""

    sent: float
    ended: float = 0.0
    pieces: int = 0
    outcome: Outcome = "silent"
    why: str = ""


@dataclass
class Ledger:
    """All requests of one run."""

    entries: list[Entry] = field(default_factory=list)
    open: set[int] = field(default_factory=set)

    def between(self, begin: float, end: float) -> list[Entry]:
        """Those that ended in this time."""
        return [entry for entry in self.entries if begin <= entry.ended <= end]

    def counts(self) -> Counter[str]:
        """Requests by outcome."""
        return Counter(entry.outcome for entry in self.entries)

    def failed(self) -> list[Entry]:
        """Those that did not finish."""
        return [entry for entry in self.entries if entry.outcome != "finished"]


class Load:
    """So many clients that ask one streamed question after another, from `start` to `stop`.

    A client that was refused waits a little, as one that reads Retry-After would; it does not retry the request.
    """

    def __init__(self, url: str, clients: int = 6, tokens: int = 60, headers: dict[str, str] | None = None) -> None:
        self.ledger = Ledger()
        self._clients = clients
        self._body = {
            "model": "demo",
            "messages": [{"role": "user", "content": "What is this?"}],
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
        limits = httpx.Limits(max_connections=clients + 2)
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits)
        self._stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped.set()
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    async def finished(self, count: int, timeout_s: float) -> float:
        """Wait until so many more requests have finished; seconds that took."""
        began = time.monotonic()
        before = self.ledger.counts()["finished"]
        while self.ledger.counts()["finished"] < before + count:
            if time.monotonic() > began + timeout_s:
                raise TimeoutError(f"{self.ledger.counts()} after {timeout_s:g} s")
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def _client(self) -> None:
        while not self._stopped.is_set():
            entry = Entry(time.monotonic())
            self.ledger.open.add(id(entry))
            try:
                await self._ask(entry)
            except httpx.ConnectError as error:
                entry.outcome, entry.why = "refused", type(error).__name__
            except (httpx.HTTPError, OSError) as error:
                entry.outcome, entry.why = "cut", type(error).__name__
            entry.ended = time.monotonic()
            self.ledger.open.discard(id(entry))
            self.ledger.entries.append(entry)
            if entry.outcome != "finished":
                await asyncio.sleep(0.3)

    async def _ask(self, entry: Entry) -> None:
        async with self._http.stream("POST", "/v1/chat/completions", json=self._body) as answer:
            if answer.status_code != 200:
                text = (await answer.aread()).decode(errors="replace")
                entry.outcome, entry.why = "told", f"{answer.status_code} {_code(text)}"
                return
            async for line in answer.aiter_lines():
                if line == "data: [DONE]" and entry.outcome == "silent":
                    entry.outcome = "finished"
                elif line.startswith("data: {"):
                    entry.pieces += 1
                    if '"error"' in line:
                        entry.outcome, entry.why = "told", f"event {_code(line[6:])}"


def _code(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return text[:80]
