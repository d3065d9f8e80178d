"""HTTP client for guard canaries: sends them through the public route and reports what came back.

Only the lengths of answers are kept, so that no prompt or completion reaches a log or a record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import httpx

from hybridserve.guards.canaries.judge import CanaryObservation
from hybridserve.guards.canaries.prompts import ROUTE, Canary
from hybridserve.sse import DONE, SSEDecoder, event_data, split_events


def service_client(url: str, api_key: str | None) -> httpx.AsyncClient:
    """An HTTP client for the service at `url`.

    Raises:
        httpx.InvalidURL: `url` is not a URL.
    """
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=60.0)


async def send_canaries(
    client: httpx.AsyncClient,
    canaries: Sequence[Canary],
    model: str,
    progress: Callable[[Canary], None] | None = None,
) -> list[CanaryObservation]:
    """Send canaries one after another, so that each latency is that of a single request.

    Args:
        client: with the service's base address, its key and a timeout.
        model: the name that the service serves.
        progress: called before each canary.
    """
    observations = []
    for canary in canaries:
        if progress is not None:
            progress(canary)
        observations.append(await send_canary(client, canary, model))
    return observations


async def send_canary(client: httpx.AsyncClient, canary: Canary, model: str) -> CanaryObservation:
    """Send one canary. A connection error becomes an observation with status 0."""
    start = perf_counter()
    try:
        observation = await _post(client, canary, {**canary.body, "model": model})
    except httpx.HTTPError as error:
        observation = CanaryObservation(canary=canary.id, fault=type(error).__name__)
    except ValueError:
        observation = CanaryObservation(canary=canary.id, fault="not JSON")
    observation.latency_s = perf_counter() - start
    return observation


async def _post(client: httpx.AsyncClient, canary: Canary, body: dict[str, Any]) -> CanaryObservation:
    async with client.stream("POST", ROUTE, json=body) as response:
        observation = CanaryObservation(canary=canary.id, status=response.status_code)
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            await _read_stream(response, observation)
        else:
            document = json.loads(await response.aread())
            if not isinstance(document, dict):
                raise ValueError("not an object")
            observation.add(document, "message")
        return observation


async def _read_stream(response: httpx.Response, observation: CanaryObservation) -> None:
    decoder = SSEDecoder()
    async for chunk in response.aiter_bytes():
        for event in split_events(decoder.feed(chunk)):
            data = event_data(event)
            if data == DONE:
                return
            if data is not None:
                observation.add(json.loads(data), "delta")
    observation.finished = False
