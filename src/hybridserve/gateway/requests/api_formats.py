"""Formats of the generation APIs: the text that a guard must read in a request, a response and a stream event.

Unknown fields count as text, so that nothing leaves which the guard has not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hybridserve.guards.base import Message

# Index of the choice, then the place of the text in it.
ChannelKey: TypeAlias = tuple[object, ...]
Texts: TypeAlias = list[tuple[ChannelKey, str]]

_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning_text"})
_LABELS = frozenset({"role", "id", "type", "finish_reason", "stop_reason", "object", "status", "annotations"})


class Unreadable(Exception):
    """A request has content that a text guard cannot read: images, token IDs, stored history."""


@dataclass(frozen=True, slots=True)
class APIFormat:
    """One API.

    Attributes:
        ends: markers of a complete stream, each at the start of a line.
        limits: request fields that limit the output tokens; the first one has precedence.
    """

    name: Literal["chat", "completions", "responses"]
    ends: tuple[bytes, ...]
    limits: tuple[str, ...]

    def messages(self, body: dict[str, Any]) -> list[Message]:
        """The conversation of a request as plain text.

        Raises:
            Unreadable: a part of it is not text.
        """
        return _MESSAGES[self.name](body)

    def response_texts(self, payload: dict[str, Any]) -> Texts:
        """All text of a whole (not streamed) response, by channel."""
        if self.name == "responses":
            return list(_leaves(payload.get("output"), (0, "output")))
        return _choice_texts(payload)

    def event_texts(self, payload: dict[str, Any]) -> Texts:
        """The text that one stream event adds, each piece with the channel it continues."""
        return _responses_event_texts(payload) if self.name == "responses" else _choice_texts(payload)

    def finished_choices(self, payload: dict[str, Any]) -> set[object]:
        """Choices (first element of their channels) that end with this event."""
        return {choice.get("index", 0) for choice in _choices(payload) if choice.get("finish_reason") is not None}


CHAT = APIFormat("chat", (b"data: [DONE]", b"data:[DONE]"), ("max_completion_tokens", "max_tokens"))
COMPLETIONS = APIFormat("completions", (b"data: [DONE]", b"data:[DONE]"), ("max_tokens",))
RESPONSES = APIFormat(
    "responses",
    (b"event: response.completed", b"event: response.incomplete", b"event: response.failed"),
    ("max_output_tokens",),
)


def _choices(payload: dict[str, Any]) -> list[dict[str, Any]]:
    choices = payload.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _choice_texts(payload: dict[str, Any]) -> Texts:
    """Text of a chat or completions payload. Some servers end a stream of deltas with a whole message."""
    texts: Texts = []
    for choice in _choices(payload):
        for field in ("delta", "message", "text"):
            if field in choice:
                texts += _leaves(choice[field], (choice.get("index", 0), field))
    return texts


def _leaves(value: object, channel: ChannelKey) -> Iterator[tuple[ChannelKey, str]]:
    """Every text under `value` except labels. Pieces of a tool call share the channel of its index."""
    if isinstance(value, str):
        if value:
            yield channel, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _LABELS:
                yield from _leaves(inner, (*channel, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            index = inner.get("index", position) if isinstance(inner, dict) else position
            yield from _leaves(inner, (*channel, index))


def _chat_messages(body: dict[str, Any]) -> list[Message]:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return []
    return _tool_messages(body) + [message for item in messages if (message := _message(item)) is not None]


def _message(item: object) -> Message | None:
    if not isinstance(item, dict):
        return None
    texts = list(_part_texts(item.get("content")))
    fields = (item.get(field) for field in ("reasoning", "reasoning_content", "refusal", "name"))
    texts += [text for text in fields if isinstance(text, str)]
    if item.get("tool_calls"):
        texts += [text for _, text in _leaves(item["tool_calls"], ())]
    role = item.get("role")
    return {"role": role if isinstance(role, str) else "user", "content": "\n".join(texts)}


def _part_texts(content: object) -> Iterator[str]:
    if content is None:
        return
    if isinstance(content, str):
        yield content
        return
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict) and _part_type(part) in _TEXT_PARTS:
            yield from (text for _, text in _leaves(part, ()))
        else:
            kind = _part_type(part) if isinstance(part, dict) else type(part).__name__
            raise Unreadable(f"a message has a part of type {kind}")


def _part_type(part: dict[str, Any]) -> str:
    kind = part.get("type", "text")
    return kind if isinstance(kind, str) else type(kind).__name__


def _tool_messages(body: dict[str, Any]) -> list[Message]:
    """Tool definitions and documents, which reach the model as text too."""
    texts = [text for field in ("tools", "functions", "documents") for _, text in _leaves(body.get(field), ())]
    return [{"role": "system", "content": "\n".join(texts)}] if texts else []


def _completion_messages(body: dict[str, Any]) -> list[Message]:
    if body.get("prompt_embeds"):
        raise Unreadable("the prompt consists of embeddings")
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not all(isinstance(text, str) for text in prompts):
        raise Unreadable("the prompt consists of token IDs")
    suffix = body.get("suffix")
    return [{"role": "user", "content": text} for text in [*prompts, suffix] if isinstance(text, str)]


def _responses_messages(body: dict[str, Any]) -> list[Message]:
    for field in ("previous_response_id", "conversation", "prompt", "previous_input_messages", "background"):
        if body.get(field):
            raise Unreadable(f"{field} refers to text that is not in the request")
    result = _tool_messages(body)
    if isinstance(body.get("instructions"), str):
        result.append({"role": "system", "content": body["instructions"]})
    given = body.get("input")
    for item in given if isinstance(given, list) else [given]:
        if isinstance(item, str):
            result.append({"role": "user", "content": item})
        elif isinstance(item, dict):
            if item.get("type", "message") == "message":
                if (message := _message(item)) is not None:
                    result.append(message)
            else:
                text = "\n".join(text for _, text in _leaves({k: v for k, v in item.items() if k != "call_id"}, ()))
                result.append({"role": "tool", "content": text})
    return result


_MESSAGES: dict[str, Callable[[dict[str, Any]], list[Message]]] = {
    "chat": _chat_messages,
    "completions": _completion_messages,
    "responses": _responses_messages,
}


def _responses_event_texts(payload: dict[str, Any]) -> Texts:
    kind = payload.get("type")
    channel = (0, payload.get("output_index"), payload.get("content_index"), payload.get("summary_index"), kind)
    if "delta" in payload:
        return list(_leaves(payload["delta"], channel))
    response = payload.get("response")
    if isinstance(response, dict):
        # The rest of a response object repeats the request.
        return list(_leaves(response.get("output"), channel))
    if kind in ("response.created", "response.in_progress", "response.queued"):
        return []
    skip = ("item_id", "sequence_number", "output_index", "content_index", "summary_index", "logprobs")
    return list(_leaves({key: value for key, value in payload.items() if key not in skip}, channel))


def parse_object(data: bytes | str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: anything else, including values that are nested too deeply.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
