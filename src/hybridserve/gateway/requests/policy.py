"""Request policy: which fields, lengths and numbers of choices a generation request may have. No I/O."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.reasoning.controls import (
    ReasoningOptions,
    apply_switch,
    take_reasoning_options,
    take_thinking_options,
)
from hybridserve.gateway.requests.api_formats import APIFormat, parse_object
from hybridserve.gateway.requests.coercion import coerce_body
from hybridserve.gateway.requests.escaping import escape_request
from hybridserve.gateway.requests.judged_text import MAX_DEPTH, NestedTooDeeply
from hybridserve.gateway.requests.media import media_urls
from hybridserve.guards.base import Message
from hybridserve.guards.special_tokens import token_pattern
from hybridserve.settings import Settings

# `json.dumps` would create an encoder for each request.
_encode = json.JSONEncoder(separators=(",", ":")).encode
# Bytes of JSON per token, roughly: used to reserve tokens, which the engine's own count settles.
_BYTES_PER_TOKEN = 4
# Output tokens reserved for an answer without a limit.
_DEFAULT_OUTPUT = 256
# What the engine goes through for every token or whenever its batch changes: the most that a request may have of it.
_MOST_ITEMS = {"stop": 64, "stop_sequences": 64, "stop_token_ids": 64, "bad_words": 64, "logit_bias": 1024,
               "logprob_token_ids": 1024}  # fmt: skip
_LONGEST_REPETITION = 64
# Item types of the Responses API that vLLM turns into messages.
_INPUT_ITEMS = ("message", "function_call", "function_call_output", "reasoning")
# Fields that make a part of the prompt or of the answer leave in a form that the guard does not read.
_UNGUARDED_OUTPUT = (
    "top_logprobs",
    "logprob_token_ids",
    "return_token_ids",
    "return_prompt_text",
    "enable_response_messages",
)
# For these, 0 asks for something too.
_UNGUARDED_COUNTS = ("logprobs", "prompt_logprobs")
# A value of a chat template argument: a word like `low`, in which no text fits.
_WORD = re.compile("[A-Za-z0-9_]{0,16}")


@dataclass(slots=True)
class GenerationRequest:
    """A generation request as it will reach the engine.

    Attributes:
        raw: the body in bytes; stale while `changed` is true.
        hide_usage: the gateway requested usage in the stream and the client did not.
        output_limit: largest number of tokens of one answer, of which there are `answers`.
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
    answers: int = 1
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
        return self.estimated_prompt() + self.answers * (self.output_limit or _DEFAULT_OUTPUT)

    def include_usage(self) -> None:
        """Make a stream end with its usage, which the token limit needs."""
        if not self.stream or not self.format.usage_option:
            return
        options = self.body.get("stream_options")
        options = options if isinstance(options, dict) else {}
        if options.get("include_usage") is not True:  # the engine reads "no" as false
            self.body["stream_options"] = {**options, "include_usage": True}
            self.changed = self.hide_usage = True


def parse_request(raw: bytes, api_format: APIFormat) -> GenerationRequest:
    """Parse a request body.

    Raises:
        APIError: 400, not a JSON object, or a number or switch in it that is none.
    """
    body = parse_body(raw)
    changed = coerce_body(body)
    return GenerationRequest(api_format, body, raw, stream=body.get("stream") is True, changed=changed)


def parse_body(raw: bytes) -> dict[str, Any]:
    """Parse a body.

    Raises:
        APIError: 400, not a JSON object.
    """
    try:
        return parse_object(raw)
    except ValueError:
        raise APIError(400, "invalid_json", "The request body is not a JSON object.") from None


def apply_request_policy(
    request: GenerationRequest, settings: Settings, key: Key, tokens: tuple[str, ...] = ()
) -> None:
    """Reject fields that are not allowed, and change the body to fit the limits.

    Args:
        tokens: special tokens of the served model, which are escaped in the text of users.

    Raises:
        APIError: 400, with the field that is wrong.
    """
    access, body = settings.access, request.body
    require_allowed_template(body, settings)
    request.answers = _count_answers(body, access.max_choices)
    _require_short_lists(body)
    _require_known_roles(request.format, body)
    if request.format.name == "responses":
        _require_known_input_items(body.get("input"))
    if settings.guard.kind != "none":
        if settings.guard.output:
            _reject_unguarded_output(body)
        _reject_truncation(body)
    _limit_output(request, access.max_output_tokens, access.long_output)
    _escape(request, settings, tokens)
    _apply_reasoning(request, settings)
    if access.isolate_prefix_cache:
        body["cache_salt"] = hashlib.sha256(b"prefix cache of " + key.digest).hexdigest()
        request.changed = True


def require_allowed_template(body: dict[str, Any], settings: Settings) -> None:
    """Reject what would change how the engine makes the prompt, or make it fetch a URL, also where it counts tokens.

    Raises:
        APIError: 400, with the field that is wrong.
    """
    for field in settings.access.refused_fields:
        if body.get(field):
            raise APIError(400, "field_not_allowed", f"{field} is not allowed on this server.", param=field)
    _require_known_template_arguments(body.get("chat_template_kwargs"), settings.reasoning.template_kwargs)
    extra = settings.engine.extra_args
    if not (extra.get("allowed_media_domains") or extra.get("allowed-media-domains")):
        for _ in media_urls(body):
            message = "URLs of pictures, sound and video are not fetched on this server: send them as data: URLs."
            raise APIError(400, "media_url_not_allowed", message)


def _count_answers(body: dict[str, Any], most: int) -> int:
    """Answers that a request asks for: as many for each prompt of a completion."""
    prompt, answers = body.get("prompt"), 1
    for field in ("n", "best_of"):
        value = body.get(field)
        if isinstance(value, int):
            if value > most:
                raise APIError(400, "too_many_choices", f"{field} is {value}; the maximum is {most}.", param=field)
            answers = max(answers, value)
    if isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int)):
        answers *= max(1, len(prompt))
        if answers > most:
            message = f"{len(prompt)} prompts ask for {answers} answers; the maximum is {most}."
            raise APIError(400, "too_many_choices", message, param="prompt")
    return answers


def _require_short_lists(body: dict[str, Any]) -> None:
    """With 300,000 stop strings vLLM 0.29 blocks its server for 80 ms at every token, for all requests."""
    for field, most in _MOST_ITEMS.items():
        value = body.get(field)
        if isinstance(value, (list, dict)) and len(value) > most:
            raise APIError(
                400, "too_many_values", f"{field} has {len(value)} entries; the maximum is {most}.", param=field
            )
    # vLLM's scheduler compares patterns of every length up to this one, after every token.
    repetition = body.get("repetition_detection")
    longest = repetition.get("max_pattern_size") if isinstance(repetition, dict) else None
    if longest is not None and not (_count(longest) is not None and longest <= _LONGEST_REPETITION):
        message = f"repetition_detection.max_pattern_size must be at most {_LONGEST_REPETITION}."
        raise APIError(400, "too_many_values", message, param="repetition_detection")


def _require_known_roles(api_format: APIFormat, body: dict[str, Any]) -> None:
    """A chat template prints a role that it does not know, in place of a marker of the model's own."""
    field = "input" if api_format.name == "responses" else "messages"
    items = body.get(field) if api_format.roles else None
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if not isinstance(item, dict) or (field == "input" and "role" not in item):
            continue
        role = item.get("role")
        if not isinstance(role, str) or role not in api_format.roles:
            where = f"{field}[{index}].role"
            message = f"{where} must be one of {', '.join(sorted(api_format.roles))}."
            raise APIError(400, "unknown_role", message, param=where)


def _require_known_template_arguments(kwargs: object, known: tuple[str, ...]) -> None:
    """Other arguments could carry text into the prompt, replace what it contains, or cut it off."""
    if kwargs is None:
        return
    if not isinstance(kwargs, dict):
        raise APIError(400, "field_not_allowed", "chat_template_kwargs is not an object.", param="chat_template_kwargs")
    for name, value in kwargs.items():
        where = f"chat_template_kwargs.{name}"
        if name not in known:
            allowed = ", ".join(known) or "none"
            message = f"{where[:80]} is not allowed on this server, which allows: {allowed}."
            raise APIError(400, "field_not_allowed", message, param=where[:80])
        if not (value is None or isinstance(value, (bool, int, float)) or _is_word(value)):
            message = f"{where} must be true, false, a number, or a word of at most 16 letters and digits."
            raise APIError(400, "field_not_allowed", message, param=where)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


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
    include = body.get("include")
    found = [field for field in _UNGUARDED_OUTPUT if body.get(field)]
    found += [field for field in _UNGUARDED_COUNTS if body.get(field) is not None and body[field] is not False]
    if isinstance(include, list) and "message.output_text.logprobs" in include:
        found.append("include")
    if found:
        message = f"{found[0]} is not allowed while a guard checks the output."
        raise APIError(400, "field_not_allowed", message, param=found[0])


def _reject_truncation(body: dict[str, Any]) -> None:
    """A prompt that the engine shortens is not the prompt that the guard has read."""
    for field, harmless in (("truncate_prompt_tokens", (None,)), ("truncation", (None, "disabled"))):
        if body.get(field) not in harmless:
            message = f"{field} is not allowed while a guard checks the prompt."
            raise APIError(400, "field_not_allowed", message, param=field)


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


def _escape(request: GenerationRequest, settings: Settings, tokens: tuple[str, ...]) -> None:
    section = settings.reasoning
    words = section.control_words if section.switch != "none" else ()
    try:
        request.changed |= escape_request(request.body, token_pattern((*words, *tokens)))
    except NestedTooDeeply:
        raise nested_too_deeply() from None


def nested_too_deeply() -> APIError:
    """The error for a body that is nested too deeply."""
    return APIError(400, "invalid_json", f"The request body is nested more than {MAX_DEPTH} levels.")


def _apply_reasoning(request: GenerationRequest, settings: Settings) -> None:
    section, body = settings.reasoning, request.body
    if request.format.name == "responses":
        return  # `reasoning` is a field of this API itself, which the engine reads
    field = "thinking" if request.format.name == "messages" else "reasoning"
    explicit = field in body
    if request.format.name == "completions":
        if explicit:
            message = "The completions API has no reasoning switch."
            raise APIError(400, "invalid_reasoning", message, param="reasoning")
        return
    options = take_thinking_options(body, section) if field == "thinking" else take_reasoning_options(body, section)
    request.changed |= explicit
    if options is None or (not explicit and section.switch == "none"):
        return
    apply_switch(body, options, section)
    request.reasoning, request.changed = options, True


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
