"""Requests that run while the release changes, and what became of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx


class Traffic:
    """Requests one after another on a few connections, half of them streams, until it is stopped."""

    def __init__(self, url: Callable[[], str], users: int = 2) -> None:
        self.answers: list[int] = []
        self.failures: list[str] = []
        self._url = url
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(users)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
        print(f"{len(self.answers)} requests answered, {len(self.failures)} failed", *self.failures, sep="\n  ")

    def _ask(self, number: int) -> None:
        stream = number % 2 == 0
        body = {
            "model": "demo",
            "stream": stream,
            "max_tokens": 24,
            "messages": [{"role": "user", "content": "What is this?"}],
        }
        while not self._ended.is_set():
            try:
                # A connection for each request, as clients behind a Service that come and go.
                with httpx.Client(timeout=60, trust_env=False) as client:
                    answer = client.post(f"{self._url()}/v1/chat/completions", json=body)
                    whole = not stream or answer.text.rstrip().endswith("data: [DONE]")
                    if answer.status_code == 200 and whole:
                        self.answers.append(len(answer.content))
                    else:
                        self.failures.append(f"{time.strftime('%X')} HTTP {answer.status_code} {answer.text[-200:]}")
            except httpx.HTTPError as error:
                self.failures.append(f"{time.strftime('%X')} {type(error).__name__}: {error}")
            time.sleep(0.2)


@contextmanager
def repeated(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `action` every `seconds` in a thread, until the block ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            action()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)
