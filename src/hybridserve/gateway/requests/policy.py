"""Request policy: which fields, lengths and numbers of choices a generation request may have. No I/O."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.reasoning.controls import (
    ReasoningOptions,
    apply_switch,
    escape_control_tokens,
    take_reasoning_options,
)
from hybridserve.gateway.requests.api_formats import APIFormat, parse_object
from hybridserve.gateway.requests.coercion import coerce_body
from hybridserve.guards.base import Message
from hybridserve.settings import Settings

# `json.dumps` would create an encoder for each request.
_encode = json.JSONEncoder(separators=(",", ":")).encode
# Bytes of JSON per token, roughly: used to reserve tokens, which the engine's own count settles.
_BYTES_PER_TOKEN = 4
# Output tokens reserved for a request without a limit.
_DEFAULT_OUTPUT = 256
# Item types of the Responses API that vLLM turns into messages.
_INPUT_ITEMS = ("message", "function_call", "function_call_output", "reasoning")


@dataclass(slots=True)
class GenerationRequest:
    """A generation request as it will reach the engine.

    Attributes:
        raw: the body in bytes; stale while `changed` is true.
        hide_usage: the gateway requested usage in the stream and the client did not.
        messages: the conversation as the guard reads it; None while no guard has read it.
    """

    format: APIFormat
    body: dict[str, Any]
    raw: bytes
    stream: bool
    changed: bool = False
    hide_usage: bool = False
    reasoning: ReasoningOptions | None = None
    output_limit: int | None = None
    messages: list[Message] | None = None

    def payload(self) -> bytes:
        """The body in bytes."""
        if self.changed:
            self.raw = _encode(self.body).encode()
            self.changed = False
        return self.raw

    def estimated_prompt(self) -> int:
        """Prompt tokens."""
        return len(self.raw) // _BYTES_PER_TOKEN

    def estimated_tokens(self) -> int:
        """Prompt and output tokens to reserve for the token limit."""
        return self.estimated_prompt() + (self.output_limit or _DEFAULT_OUTPUT)

    def include_usage(self) -> None:
        """Make a stream end with its usage, which the token limit needs."""
        if not self.stream or self.format.name == "responses":
            return
        options = self.body.get("stream_options")
        options = options if isinstance(options, dict) else {}
        if not options.get("include_usage"):
            self.body["stream_options"] = {**options, "include_usage": True}
            self.changed = self.hide_usage = True


def parse_request(raw: bytes, api_format: APIFormat) -> GenerationRequest:
    """Parse a request body.

    Raises:
        APIError: 400, not a JSON object, or a number or switch in it that is none.
    """
    try:
        body = parse_object(raw)
    except ValueError:
        raise APIError(400, "invalid_json", "The request body is not a JSON object.") from None
    changed = coerce_body(body)
    return GenerationRequest(api_format, body, raw, stream=body.get("stream") is True, changed=changed)


def apply_request_policy(request: GenerationRequest, settings: Settings, key: Key) -> None:
    """Reject fields that are not allowed, and change the body to fit the limits.

    Raises:
        APIError: 400, with the field that is wrong.
    """
    access, body = settings.access, request.body
    for field in access.refused_fields:
        if body.get(field):
            raise APIError(400, "field_not_allowed", f"{field} is not allowed on this server.", param=field)
    for field in ("n", "best_of"):
        value = body.get(field)
        if isinstance(value, int) and value > access.max_choices:
            message = f"{field} is {value}; the maximum is {access.max_choices}."
            raise APIError(400, "too_many_choices", message, param=field)
    if request.format.name == "responses":
        _require_known_input_items(body.get("input"))
    if settings.guard.kind != "none" and settings.guard.output:
        _reject_unguarded_output(body)
    _limit_output(request, access.max_output_tokens, access.long_output)
    _apply_reasoning(request, settings)
    if access.isolate_prefix_cache:
        body["cache_salt"] = hashlib.sha256(b"prefix cache of " + key.digest).hexdigest()
        request.changed = True


def _require_known_input_items(items: object) -> None:
    """vLLM 0.29 accepts every item type of OpenAI's Responses API, and fails with a 500 on those that it cannot use."""
    for index, item in enumerate(items if isinstance(items, list) else []):
        if not isinstance(item, dict):
            continue
        kind = item.get("type", "message")
        if kind not in _INPUT_ITEMS or (kind == "message" and "role" not in item):
            where = f"input[{index}]"
            message = f"{where} is not a message with a role, a function call, its output, or reasoning."
            raise APIError(400, "unsupported_input_item", message, param=where)


def _reject_unguarded_output(body: dict[str, Any]) -> None:
    """Output in a form that the guard does not read must not leave beside the text that it reads."""
    if body.get("return_token_ids"):
        message = "return_token_ids is not allowed while a guard checks the output."
        raise APIError(400, "field_not_allowed", message, param="return_token_ids")
    if body.get("include_reasoning") is False and (body.get("logprobs") or body.get("top_logprobs")):
        message = "logprobs with include_reasoning off would expose reasoning that the guard does not see."
        raise APIError(400, "field_not_allowed", message, param="logprobs")


def _limit_output(request: GenerationRequest, limit: int | None, policy: str) -> None:
    body, fields = request.body, request.format.limits
    given = [field for field in fields if _count(body.get(field)) is not None]
    if limit is not None:
        for field in given:
            if body[field] <= limit:
                continue
            if policy == "refuse":
                message = f"{field} is {body[field]}; the maximum is {limit} tokens."
                raise APIError(400, "too_many_output_tokens", message, param=field)
            body[field] = limit
            request.changed = True
        # Without a limit the engine would fill its context; completions default to OpenAI's 16 tokens.
        if not given and (request.format.name != "completions" or "max_tokens" in body):
            body[fields[0]] = limit
            request.changed = True
    request.output_limit = next((body[field] for field in fields if _count(body.get(field))), None)


def _apply_reasoning(request: GenerationRequest, settings: Settings) -> None:
    section, body = settings.reasoning, request.body
    if section.switch != "none" and escape_control_tokens(body, section.control_words):
        request.changed = True
    if request.format.name == "responses":
        return  # `reasoning` is a field of this API itself, which the engine reads
    explicit = "reasoning" in body
    if request.format.name == "completions":
        if explicit:
            message = "The completions API has no reasoning switch."
            raise APIError(400, "invalid_reasoning", message, param="reasoning")
        return
    options = take_reasoning_options(body, section)
    request.changed |= explicit
    if options is None or (not explicit and section.switch == "none"):
        return
    apply_switch(body, options, section)
    request.reasoning, request.changed = options, True


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
