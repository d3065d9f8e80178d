"""The HTTP edge of guard evidence: sends canaries through the public route and says what came back.

Only lengths of answers are kept: neither a prompt nor a completion reaches a log or a record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import httpx

from hybridserve.compliance.canary_prompts import Canary
from hybridserve.compliance.evidence import CanaryObservation
from hybridserve.sse import DONE, SSEDecoder, event_data, split_events

ROUTE = "/v1/chat/completions"
# Fields in which a delta or a message can carry text; the engine has renamed its reasoning field once.
REASONING_FIELDS = ("reasoning", "reasoning_content")


async def send_canaries(
    client: httpx.AsyncClient,
    canaries: Sequence[Canary],
    model: str,
    progress: Callable[[Canary], None] | None = None,
) -> list[CanaryObservation]:
    """Send canaries one after the other, so that latencies are of a request alone.

    Args:
        client: with the service's base address, its key and a time limit.
        model: name the service serves.
        progress: called before each canary.
    """
    seen = []
    for canary in canaries:
        if progress is not None:
            progress(canary)
        seen.append(await send_canary(client, canary, model))
    return seen


async def send_canary(client: httpx.AsyncClient, canary: Canary, model: str) -> CanaryObservation:
    """One canary. A fault on the way becomes an observation without a status."""
    start = perf_counter()
    try:
        answer = await _ask(client, {**canary.body, "model": model}, stream=canary.stream)
    except httpx.HTTPError as error:
        return CanaryObservation(
            canary=canary.id, status=0, fault=type(error).__name__, latency_s=perf_counter() - start
        )
    except ValueError:
        return CanaryObservation(canary=canary.id, status=0, fault="not JSON", latency_s=perf_counter() - start)
    return CanaryObservation(canary=canary.id, latency_s=perf_counter() - start, **answer)


async def _ask(client: httpx.AsyncClient, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    if not stream:
        response = await client.post(ROUTE, json=body)
        return read_answer(response.status_code, response.json())
    async with client.stream("POST", ROUTE, json=body) as response:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            return read_answer(response.status_code, json.loads(await response.aread()))
        return await _read_stream(response)


def read_answer(status: int, body: Any) -> dict[str, Any]:
    """The fields of an `CanaryObservation` in the body of an answer that is no stream.

    Raises:
        ValueError: the body is not a JSON object.
    """
    answer = _empty(status)
    if not isinstance(body, dict):
        raise ValueError("not an object")
    if error := body.get("error"):
        answer["code"] = _code(error)
    for choice in body.get("choices") or []:
        _count(answer, choice.get("message") or {})
        answer["finished"] = answer["finished"] or choice.get("finish_reason") is not None
    return answer


async def _read_stream(response: httpx.Response) -> dict[str, Any]:
    answer, finish, decoder = _empty(response.status_code), False, SSEDecoder()
    async for chunk in response.aiter_bytes():
        for event in split_events(decoder.feed(chunk)):
            data = event_data(event)
            if data == DONE:
                answer["finished"] = finish
                return answer
            payload = json.loads(data) if data is not None else {}
            if error := payload.get("error"):
                answer["code"] = _code(error)
            for choice in payload.get("choices") or []:
                _count(answer, choice.get("delta") or {})
                finish = finish or choice.get("finish_reason") is not None
    return answer


def _empty(status: int) -> dict[str, Any]:
    return {"status": status, "code": None, "content": 0, "reasoning": 0, "tool_calls": 0, "finished": False}


def _count(answer: dict[str, Any], text: dict[str, Any]) -> None:
    answer["content"] += len(text.get("content") or "")
    answer["reasoning"] += sum(len(text.get(field) or "") for field in REASONING_FIELDS)
    for call in text.get("tool_calls") or []:
        answer["tool_calls"] += len((call.get("function") or {}).get("arguments") or "")


def _code(error: Any) -> str:
    code = error.get("code") or error.get("type") if isinstance(error, dict) else None
    return str(code or "error")
