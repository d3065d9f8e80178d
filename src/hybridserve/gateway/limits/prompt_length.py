"""The limit on prompt tokens, counted by the engine."""

from __future__ import annotations

from typing import Any

from hybridserve.gateway.errors import APIError
from hybridserve.gateway.internal_request import request_app
from hybridserve.gateway.requests.judged_text import NestedTooDeeply, Unreadable
from hybridserve.gateway.requests.policy import GenerationRequest, nested_too_deeply
from hybridserve.gateway.types import App, Scope

_CHAT_FIELDS = ("model", "messages", "tools", "chat_template_kwargs")
_ANTHROPIC_FIELDS = (*_CHAT_FIELDS, "system", "tool_choice")


async def check_prompt_length(app: App, scope: Scope, request: GenerationRequest, limit: int | None) -> None:
    """Count the tokens of a prompt with the app's ``/tokenize`` if it may be longer than `limit` tokens.

    A token is at least one byte, so a body of at most `limit` bytes needs no count.

    Raises:
        APIError: 400, more tokens than the limit; 503, they cannot be counted.
    """
    if limit is None or len(request.raw) <= limit:
        return
    anthropic = request.format.name == "messages"
    path, field = ("/v1/messages/count_tokens", "input_tokens") if anthropic else ("/tokenize", "count")
    counts = []
    for prompt in _prompts(request):
        if isinstance(prompt, int):
            counts.append(prompt)
            continue
        response = await request_app(app, scope, "POST", path, prompt)
        answer = response.json()
        if response.status in (400, 404) and "error" in answer:
            return  # an invalid request, or an unknown model: the engine reports it with the better reason
        count = answer.get(field)
        if response.status != 200 or not isinstance(count, int):
            message = "The tokens of the prompt could not be counted."
            raise APIError(503, "engine_unavailable", message, retry_after_s=1.0)
        counts.append(count)
    if counts and max(counts) > limit:
        message = f"The prompt has {max(counts)} tokens; the maximum is {limit}."
        raise APIError(400, "prompt_too_long", message, param="messages" if "messages" in request.body else None)


def _prompts(request: GenerationRequest) -> list[dict[str, Any] | int]:
    """Each prompt of a request, as a body for ``/tokenize``, or as its length if it is given as token IDs."""
    body = request.body
    if request.format.name in ("chat", "messages"):
        anthropic = request.format.name == "messages"
        fields = _ANTHROPIC_FIELDS if anthropic else _CHAT_FIELDS
        counted = {field: body[field] for field in fields if body.get(field) is not None}
        extra = counted.get("chat_template_kwargs", {})
        # vLLM passes documents to the template in this way, and refuses what is no object.
        if not anthropic and body.get("documents") and isinstance(extra, dict):
            counted["chat_template_kwargs"] = {**extra, "documents": body["documents"]}
        return [counted]
    model = {"model": body["model"]} if isinstance(body.get("model"), str) else {}
    if request.format.name == "responses":
        try:
            return [{**model, "messages": request.format.messages(body)}]
        except Unreadable as error:
            raise APIError(400, "prompt_unreadable", f"The prompt cannot be counted: {error}.") from None
        except NestedTooDeeply:
            raise nested_too_deeply() from None
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if prompts and all(isinstance(token, int) for token in prompts):
        return [len(prompts)]
    return [len(item) if isinstance(item, list) else {**model, "prompt": item} for item in prompts]
