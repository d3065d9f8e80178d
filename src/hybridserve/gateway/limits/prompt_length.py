"""The limit on prompts, in the engine's own count."""

from __future__ import annotations

from typing import Any

from hybridserve.gateway.errors import APIError
from hybridserve.gateway.internal_request import request_app
from hybridserve.gateway.requests.api_formats import Unreadable
from hybridserve.gateway.requests.policy import GenerationRequest
from hybridserve.gateway.types import App, Scope

_CHAT_FIELDS = ("model", "messages", "tools", "chat_template_kwargs")


async def check_prompt_length(app: App, scope: Scope, call: GenerationRequest, limit: int | None) -> None:
    """Count a prompt that might be too long, with the app's ``/tokenize``.

    A token is at least one byte, so a body of no more bytes than the limit needs no count.

    Raises:
        APIError: 400, more tokens than the limit; or 503 where they cannot be counted.
    """
    if limit is None or len(call.raw) <= limit:
        return
    counts = []
    for prompt in _prompts(call):
        if isinstance(prompt, int):
            counts.append(prompt)
            continue
        answer = await request_app(app, scope, "POST", "/tokenize", prompt)
        said = answer.json()
        if answer.status in (400, 404) and "error" in said:
            return  # not a valid request, or another model's: the engine says why, better than we could
        count = said.get("count")
        if answer.status != 200 or not isinstance(count, int):
            raise APIError(503, "engine_unavailable", "The prompt's tokens cannot be counted.", retry_after_s=1.0)
        counts.append(count)
    if counts and max(counts) > limit:
        message = f"The prompt has {max(counts)} tokens; at most {limit} are taken."
        raise APIError(400, "prompt_too_long", message, param="messages" if call.dialect.name == "chat" else None)


def _prompts(call: GenerationRequest) -> list[dict[str, Any] | int]:
    """Each prompt of a request, as a question to ``/tokenize``, or as its length where it is given as token ids."""
    body = call.body
    if call.dialect.name == "chat":
        return [{field: body[field] for field in _CHAT_FIELDS if body.get(field) is not None}]
    model = {"model": body["model"]} if isinstance(body.get("model"), str) else {}
    if call.dialect.name == "responses":
        try:
            return [{**model, "messages": call.dialect.messages(body)}]
        except Unreadable as error:
            raise APIError(400, "prompt_unreadable", f"The prompt cannot be counted: {error}.") from None
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if prompts and all(isinstance(token, int) for token in prompts):
        return [len(prompts)]
    return [len(one) if isinstance(one, list) else {**model, "prompt": one} for one in prompts]
