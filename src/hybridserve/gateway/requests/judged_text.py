"""The text of a request that a guard must read: everything that can reach the prompt, as plain messages.

A field of the body is judged unless it is in `SETTINGS`, so that a field which we do not know is judged too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from hybridserve.guards.base import Message
from hybridserve.guards.visible_text import with_tags_decoded, without_invisible

SETTINGS = frozenset({
    "add_generation_prompt", "add_special_tokens", "allowed_token_ids", "background", "bad_words", "best_of",
    "cache_salt", "chat_template_kwargs", "continue_final_message", "echo", "enable_response_messages",
    "frequency_penalty", "ignore_eos", "include", "include_reasoning", "include_stop_str_in_output", "length_penalty",
    "logit_bias", "logprob_token_ids", "logprobs", "max_completion_tokens", "max_output_tokens", "max_tokens",
    "max_tool_calls", "metadata", "min_p", "min_tokens", "modalities", "model", "n", "parallel_tool_calls",
    "presence_penalty", "priority", "prompt_cache_key", "prompt_logprobs", "reasoning", "reasoning_effort",
    "repetition_detection", "repetition_penalty", "request_id", "return_assistant_tokens_mask", "return_prompt_text",
    "return_token_ids", "return_token_offsets", "return_tokens_as_token_ids", "routed_experts_prompt_start",
    "safety_identifier", "seed", "service_tier", "session_id", "skip_special_tokens", "spaces_between_special_tokens",
    "stop", "stop_sequences", "stop_token_ids", "store", "stream", "stream_interval", "stream_options", "temperature",
    "thinking", "thinking_token_budget", "top_k", "top_logprobs", "top_p", "truncate_prompt_tokens", "truncation",
    "truncation_side", "use_beam_search", "user", "verbosity",
})  # fmt: skip
"""Fields that never reach the prompt. `chat_template_kwargs` is restricted to names and short words by the policy."""

_STORED = ("previous_response_id", "conversation", "previous_input_messages", "background")
_TEXT_PARTS = frozenset({
    "text", "input_text", "output_text", "refusal", "thinking", "reasoning_text", "summary_text", "tool_reference",
    "tool_use", "tool_result", "redacted_thinking",
})  # fmt: skip
# Part of a key that holds no text. vLLM takes a part with such a key for an image whatever its type says.
_MEDIA_KEYS = ("image", "audio", "video", "embeds", "file", "uuid", "document", "logprobs")
# Words of JSON Schema and of the APIs, which contain no text to judge.
_SCHEMA_WORDS = frozenset({
    ("type", word)
    for word in ("function", "object", "string", "number", "integer", "boolean", "array", "null", "text", "ephemeral",
                 "json_schema", "json_object", "auto", "tool_use", "tool_result", "input_text", "output_text")
})  # fmt: skip
# Templates remove these from the messages that they print, and so join what is before and behind them.
_REMOVED = re.compile("/think|/no_think|<image>|<video>")
_PASSES = 4  # a template removes each of them once, one after the other
_NEAR = 1024  # characters: as far as the overlap of slices in which patterns are matched
MAX_DEPTH = 64


class Unreadable(Exception):
    """A request has content that a text guard cannot read: images, token IDs, stored history."""


class NestedTooDeeply(ValueError):
    """JSON is nested more than `MAX_DEPTH` levels."""


def chat_messages(body: dict[str, Any]) -> list[Message]:
    """The conversation of a chat request, or of Anthropic's Messages API."""
    return [*_context(body, "messages"), *_items(body.get("messages"))]


def response_messages(body: dict[str, Any]) -> list[Message]:
    """The conversation of a request to the Responses API."""
    for field in (*_STORED, "prompt"):
        if body.get(field):
            raise Unreadable(f"{field} refers to text that is not in the request")
    return [*_context(body, "input"), *_items(body.get("input"))]


def completion_messages(body: dict[str, Any]) -> list[Message]:
    """The prompts of a completion request."""
    for field in ("prompt_embeds", "prompt_token_ids"):
        if body.get(field):
            raise Unreadable("the prompt consists of embeddings or token IDs")
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not all(isinstance(text, str) for text in prompts):
        raise Unreadable("the prompt consists of token IDs")
    return [*_context(body, "prompt"), *_items(prompts)]


def lines(value: object, depth: int = 0) -> Iterator[str]:
    """All keys and texts of a JSON value, as lines ``key: text``.

    Raises:
        NestedTooDeeply: more than `MAX_DEPTH` levels.
    """
    if depth > MAX_DEPTH:
        raise NestedTooDeeply
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(inner, str):
                yield key
                yield from lines(inner, depth + 1)
            elif (key, inner) not in _SCHEMA_WORDS:
                yield f"{key}: {inner}"
    elif isinstance(value, list):
        for inner in value:
            yield from lines(inner, depth + 1)


def _context(body: dict[str, Any], conversation: str) -> list[Message]:
    """Everything outside the conversation: instructions, tools, documents, formats, and unknown fields."""
    texts: list[str] = []
    for field, value in body.items():
        if field in SETTINGS or field == conversation or not value:
            continue
        if isinstance(value, str):
            texts.append(value)
        elif field == "system":
            texts.append(_joined(list(_part_texts(value))))
        else:
            texts += lines(value)
    return [{"role": "system", "content": _as_printed("\n".join(texts))}] if texts else []


def _items(items: object) -> Iterator[Message]:
    for item in items if isinstance(items, list) else [items]:
        if isinstance(item, str):
            yield {"role": "user", "content": _as_printed(item)}
        elif isinstance(item, dict):
            yield _message(item)


def _message(item: dict[str, Any]) -> Message:
    role, texts = item.get("role", "tool" if "type" in item else "user"), []
    for key, value in item.items():
        if key in ("content", "output"):
            texts.append(_joined(list(_part_texts(value))))
        elif isinstance(value, str):
            if key not in ("role", "type", "status"):
                texts.append(value)
        elif value:
            texts += lines(value)
    return {"role": role if isinstance(role, str) else "user", "content": _as_printed("\n".join(texts))}


def _part_texts(content: object, depth: int = 0) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise NestedTooDeeply
    if isinstance(content, str):
        yield content
        return
    if content is None:
        return
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            yield _one_part(part, depth)
        else:
            raise Unreadable(f"a message has a part of type {type(part).__name__}")


def _one_part(part: dict[str, Any], depth: int) -> str:
    kind = part.get("type", "text")
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        raise Unreadable(f"a message has a part of type {kind if isinstance(kind, str) else type(kind).__name__}")
    texts = []
    for key, value in part.items():
        if key == "type" or (kind == "redacted_thinking" and key == "data"):  # vLLM drops the latter
            continue
        if key in ("text", "thinking", "refusal") and isinstance(value, str):
            texts.append(value)
        elif key == "content":
            texts.append(_joined(list(_part_texts(value, depth + 1))))
        elif value and any(word in key for word in _MEDIA_KEYS):
            raise Unreadable(f"a message has a part with {key}")
        else:
            texts += lines({key: value}, depth)
    return "\n".join(texts)


def _as_printed(text: str) -> str:
    """The text, and behind it the text as a template prints that removes control words, if there are any."""
    if ("/" not in text and "<" not in text) or _REMOVED.search(text) is None:
        return text
    printed = text
    for _ in range(_PASSES):
        printed = _REMOVED.sub("", printed)
    return f"{text}\n{printed}"


def _joined(texts: list[str]) -> str:
    """The texts of one message. Templates join them with a newline or with nothing, which may join halves of a word.

    Behind the texts is what is on both sides of such places, joined; parts that nobody sees are left out.
    """
    parts = [part for text in texts if (part := without_invisible(with_tags_decoded(text)))] if len(texts) > 1 else []
    joined, end, spans = "".join(parts), 0, [(0, 0)]
    for before, after in pairwise(parts):
        end += len(before)
        if before[-1].isspace() or after[0].isspace():
            continue
        begin = max(0, end - _NEAR)
        begin = spans.pop()[0] if begin <= spans[-1][1] else begin
        spans.append((begin, end + _NEAR))
    return "\n".join([*texts, *(joined[begin:end] for begin, end in spans if end)])
