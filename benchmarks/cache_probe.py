"""Polls /metrics for the number of running sequences of an engine and their share of its cache."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import httpx

PERIOD_S = 0.1


class CacheProbe:
    """A context manager that polls a vLLM server.

    Args:
        url: URL of the server.
        cache_bytes: size of the block pool without vLLM's null block.
    """

    def __init__(self, url: str, cache_bytes: int) -> None:
        self._url = url
        self._cache_bytes = cache_bytes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.running = 0
        """Largest number of running sequences."""
        self.bytes_per_sequence = 0.0
        """Largest mean cache usage of a running sequence."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        with httpx.Client(trust_env=False) as client:
            while not self._over.wait(PERIOD_S):
                try:
                    text = client.get(f"{self._url}/metrics").text
                except httpx.HTTPError:
                    continue
                running = round(read_gauge(text, "vllm:num_requests_running"))
                held = read_gauge(text, "vllm:kv_cache_usage_perc") * self._cache_bytes
                self.running = max(self.running, running)
                if running:
                    self.bytes_per_sequence = max(self.bytes_per_sequence, held / running)


def read_gauge(text: str, name: str) -> float:
    """Sum of a gauge over its label sets."""
    lines = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
