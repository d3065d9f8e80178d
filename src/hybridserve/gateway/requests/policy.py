"""What a generating request may ask for: fields, answers, lengths. Pure: a body in, a call or a refusal out."""

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
from hybridserve.guards.base import Message
from hybridserve.settings import Settings

# A token is about so many bytes of JSON. Used only to reserve; the engine's own count settles it.
_BYTES_PER_TOKEN = 4
# What an answer is taken to use while nobody knows better.
_DEFAULT_OUTPUT = 256


@dataclass(slots=True)
class GenerationRequest:
    """A request that may go on, as it shall reach the engine.

    `changed` says that `raw` no longer is what `body` says. `hide_usage`: we asked for usage, the client did not.
    `messages` is the conversation as a guard reads it, where one does.
    """

    dialect: APIFormat
    body: dict[str, Any]
    raw: bytes
    stream: bool
    changed: bool = False
    hide_usage: bool = False
    wish: ReasoningOptions | None = None
    output_limit: int | None = None
    messages: list[Message] | None = None

    def payload(self) -> bytes:
        """The body in bytes."""
        if self.changed:
            self.raw = json.dumps(self.body, separators=(",", ":")).encode()
            self.changed = False
        return self.raw

    def reserve(self) -> int:
        """Tokens this request may use, for the token limit."""
        return len(self.raw) // _BYTES_PER_TOKEN + (self.output_limit or _DEFAULT_OUTPUT)

    def ask_for_usage(self) -> None:
        """Make a stream end with its usage, which the token limit needs."""
        if not self.stream or self.dialect.name == "responses":
            return
        options = self.body.get("stream_options")
        options = options if isinstance(options, dict) else {}
        if not options.get("include_usage"):
            self.body["stream_options"] = {**options, "include_usage": True}
            self.changed = self.hide_usage = True


def apply_request_policy(raw: bytes, dialect: APIFormat, settings: Settings, key: Key | None) -> GenerationRequest:
    """Read a request and bring it within the limits.

    Raises:
        APIError: 400, with the field that is wrong.
    """
    try:
        body = parse_object(raw)
    except (ValueError, UnicodeDecodeError):
        raise APIError(400, "invalid_json", "The request body is not a JSON object.") from None
    access = settings.access
    call = GenerationRequest(dialect, body, raw, stream=body.get("stream") is True)
    for field in access.refused_fields:
        if body.get(field):
            raise APIError(400, "field_not_allowed", f"{field} may not be set on this server.", param=field)
    for field in ("n", "best_of"):
        value = body.get(field)
        if isinstance(value, int) and value > access.max_choices:
            message = f"{field} is {value}; at most {access.max_choices} answers may be asked for at once."
            raise APIError(400, "too_many_choices", message, param=field)
    if settings.guard.kind != "none" and settings.guard.output:
        _refuse_blind_spots(body)
    _limit_output(call, access.max_output_tokens, access.long_output)
    _reasoning(call, settings)
    if access.isolate_prefix_cache and key is not None:
        call.body["cache_salt"] = hashlib.sha256(b"prefix cache of " + key.digest).hexdigest()
        call.changed = True
    return call


def _refuse_blind_spots(body: dict[str, Any]) -> None:
    """Text in a form that a guard does not read must not leave beside the text it reads."""
    if body.get("return_token_ids"):
        raise APIError(400, "field_not_allowed", "return_token_ids goes past the guard.", param="return_token_ids")
    if body.get("include_reasoning") is False and (body.get("logprobs") or body.get("top_logprobs")):
        message = "logprobs would tell the reasoning that include_reasoning hides from the guard."
        raise APIError(400, "field_not_allowed", message, param="logprobs")


def _limit_output(call: GenerationRequest, limit: int | None, policy: str) -> None:
    given = [field for field in call.dialect.limits if _count(call.body.get(field)) is not None]
    if limit is not None:
        for field in given:
            asked = call.body[field]
            if asked <= limit:
                continue
            if policy == "refuse":
                message = f"{field} is {asked}; at most {limit} tokens may be asked for."
                raise APIError(400, "too_many_output_tokens", message, param=field)
            call.body[field] = limit
            call.changed = True
        # Without a limit the engine would fill its context; completions stop at OpenAI's 16 by themselves.
        if not given and (call.dialect.name != "completions" or "max_tokens" in call.body):
            call.body[call.dialect.limits[0]] = limit
            call.changed = True
    call.output_limit = next((call.body[field] for field in call.dialect.limits if _count(call.body.get(field))), None)


def _reasoning(call: GenerationRequest, settings: Settings) -> None:
    section, body = settings.reasoning, call.body
    if section.switch != "none" and escape_control_tokens(body, section.control_words):
        call.changed = True
    if call.dialect.name == "responses":
        return  # `reasoning` is a field of this API itself, and the engine's to read.
    if call.dialect.name == "completions":
        if "reasoning" in body:
            raise APIError(400, "invalid_reasoning", "A raw completion has no reasoning switch.", param="reasoning")
        return
    asked = "reasoning" in body
    wish = take_reasoning_options(body, section)
    call.changed |= asked
    if wish is None or (not asked and section.switch == "none"):
        return
    apply_switch(body, wish, section)
    call.wish, call.changed = wish, True


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
