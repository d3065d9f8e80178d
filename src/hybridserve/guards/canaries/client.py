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
from hybridserve.guards.canaries.prompts import Canary
from hybridserve.sse import DONE, SSEDecoder, event_data, split_events

ROUTE = "/v1/chat/completions"
# Fields of a delta or a message that can carry reasoning: vLLM has renamed its field once.
REASONING_FIELDS = ("reasoning", "reasoning_content")


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
        fields = await _post(client, {**canary.body, "model": model}, stream=canary.stream)
    except httpx.HTTPError as error:
        fields = {"status": 0, "fault": type(error).__name__}
    except ValueError:
        fields = {"status": 0, "fault": "not JSON"}
    return CanaryObservation(canary=canary.id, latency_s=perf_counter() - start, **fields)


async def _post(client: httpx.AsyncClient, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    if not stream:
        response = await client.post(ROUTE, json=body)
        return read_response(response.status_code, response.json())
    async with client.stream("POST", ROUTE, json=body) as response:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            return read_response(response.status_code, json.loads(await response.aread()))
        return await _read_stream(response)


def read_response(status: int, body: Any) -> dict[str, Any]:
    """The fields of a `CanaryObservation` from a response that is not a stream.

    Raises:
        ValueError: the body is not a JSON object.
    """
    if not isinstance(body, dict):
        raise ValueError("not an object")
    fields = _no_fields(status)
    _add_event(fields, body, "message")
    return fields


async def _read_stream(response: httpx.Response) -> dict[str, Any]:
    fields, decoder = _no_fields(response.status_code), SSEDecoder()
    async for chunk in response.aiter_bytes():
        for event in split_events(decoder.feed(chunk)):
            data = event_data(event)
            if data == DONE:
                return fields
            if data is not None:
                _add_event(fields, json.loads(data), "delta")
    return {**fields, "finished": False}


def _no_fields(status: int) -> dict[str, Any]:
    return {"status": status, "code": None, "content": 0, "reasoning": 0, "tool_calls": 0, "finished": False}


def _add_event(fields: dict[str, Any], event: dict[str, Any], text_field: str) -> None:
    """Add the error code, the text lengths and the finish reason of a body or of one stream event."""
    if error := event.get("error"):
        code = error.get("code") or error.get("type") if isinstance(error, dict) else None
        fields["code"] = str(code or "error")
    for choice in event.get("choices") or []:
        text = choice.get(text_field) or {}
        fields["content"] += len(text.get("content") or "")
        fields["reasoning"] += sum(len(text.get(field) or "") for field in REASONING_FIELDS)
        for call in text.get("tool_calls") or []:
            fields["tool_calls"] += len((call.get("function") or {}).get("arguments") or "")
        fields["finished"] = fields["finished"] or choice.get("finish_reason") is not None
