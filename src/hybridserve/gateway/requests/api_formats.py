"""How each generating API says its text: what a guard must read in a request, an answer, and an event.

A field we do not know still counts as text: what a guard has not seen does not leave.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hybridserve.guards.base import Message

# The answer's number, where a request has several, and then the place of the text in it.
ChannelKey: TypeAlias = tuple[object, ...]
Texts: TypeAlias = list[tuple[ChannelKey, str]]

_READABLE_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning_text"})
_ANSWER_LABELS = frozenset({"role", "id", "type", "finish_reason", "stop_reason", "object", "status", "annotations"})


class Unreadable(Exception):
    """A request holds something that a text guard cannot read: pictures, token ids, stored history."""


@dataclass(frozen=True, slots=True)
class APIFormat:
    """One API.

    `ends` are the markers that finish a stream properly, each at the start of a line. `limits` are the fields
    that bound the output, strongest first.
    """

    name: Literal["chat", "completions", "responses"]
    ends: tuple[bytes, ...]
    limits: tuple[str, ...]

    def messages(self, body: dict[str, Any]) -> list[Message]:
        """The request's conversation as plain text.

        Raises:
            Unreadable: a part of it is not text.
        """
        if self.name == "completions":
            return _completion_messages(body)
        if self.name == "responses":
            return _responses_messages(body)
        return _chat_messages(body)

    def answer(self, payload: dict[str, Any]) -> Texts:
        """All text of a whole (not streamed) answer."""
        if self.name == "responses":
            return list(_leaves(payload.get("output"), (0, "output")))
        texts: Texts = []
        for choice in _choices(payload):
            index = choice.get("index", 0)
            if self.name == "chat":
                texts += _leaves(choice.get("message"), (index,))
            else:
                texts += _leaves(choice.get("text"), (index, "text"))
        return texts

    def delta(self, payload: dict[str, Any]) -> Texts:
        """Text that one event adds, each piece with the lane it continues."""
        if self.name == "responses":
            return _responses_delta(payload)
        texts: Texts = []
        for choice in _choices(payload):
            index = choice.get("index", 0)
            if self.name == "chat":
                texts += _leaves(choice.get("delta"), (index,))
                # Some servers close a stream with a whole message.
                texts += _leaves(choice.get("message"), (index, "message"))
            else:
                texts += _leaves(choice.get("text"), (index, "text"))
        return texts

    def finished(self, payload: dict[str, Any]) -> set[object]:
        """Answers (first element of their lanes) that end with this event."""
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


def _leaves(value: object, lane: ChannelKey) -> Iterator[tuple[ChannelKey, str]]:
    """Every text under `value` but labels. A tool call's pieces share the lane of its index."""
    if isinstance(value, str):
        if value:
            yield lane, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _ANSWER_LABELS:
                yield from _leaves(inner, (*lane, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            index = inner.get("index", position) if isinstance(inner, dict) else position
            yield from _leaves(inner, (*lane, index))


def _chat_messages(body: dict[str, Any]) -> list[Message]:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return []
    result = [message for item in messages if (message := _turn(item)) is not None]
    return _tools(body) + result


def _turn(item: object) -> Message | None:
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
        elif isinstance(part, dict) and _label(part) in _READABLE_PARTS:
            yield from (text for _, text in _leaves(part, ()))
        else:
            kind = _label(part) if isinstance(part, dict) else type(part).__name__
            raise Unreadable(f"a message holds a part of type {kind}")


def _label(part: dict[str, Any]) -> str:
    kind = part.get("type", "text")
    return kind if isinstance(kind, str) else type(kind).__name__


def _tools(body: dict[str, Any]) -> list[Message]:
    """Definitions of tools reach the model as text, too."""
    texts = [text for field in ("tools", "functions", "documents") for _, text in _leaves(body.get(field), ())]
    return [{"role": "system", "content": "\n".join(texts)}] if texts else []


def _completion_messages(body: dict[str, Any]) -> list[Message]:
    if body.get("prompt_embeds"):
        raise Unreadable("the prompt is given as embeddings")
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not all(isinstance(text, str) for text in prompts):
        raise Unreadable("the prompt is given as token ids")
    suffix = body.get("suffix")
    return [{"role": "user", "content": text} for text in [*prompts, suffix] if isinstance(text, str)]


def _responses_messages(body: dict[str, Any]) -> list[Message]:
    for field in ("previous_response_id", "conversation", "prompt", "previous_input_messages", "background"):
        if body.get(field):
            raise Unreadable(f"{field} refers to text that is not in the request")
    result = _tools(body)
    if isinstance(body.get("instructions"), str):
        result.append({"role": "system", "content": body["instructions"]})
    given = body.get("input")
    for item in given if isinstance(given, list) else [given]:
        if isinstance(item, str):
            result.append({"role": "user", "content": item})
        elif isinstance(item, dict):
            if item.get("type", "message") == "message":
                turn = _turn(item)
                if turn is not None:
                    result.append(turn)
            else:
                text = "\n".join(text for _, text in _leaves({k: v for k, v in item.items() if k != "call_id"}, ()))
                result.append({"role": "tool", "content": text})
    return result


def _responses_delta(payload: dict[str, Any]) -> Texts:
    kind = payload.get("type")
    lane = (0, payload.get("output_index"), payload.get("content_index"), payload.get("summary_index"), kind)
    if "delta" in payload:
        return list(_leaves(payload["delta"], lane))
    if kind in ("response.created", "response.in_progress", "response.queued"):
        # These repeat the request's own settings and hold no output yet.
        response = payload.get("response")
        return list(_leaves(response.get("output"), lane)) if isinstance(response, dict) else []
    response = payload.get("response")
    if isinstance(response, dict):
        return list(_leaves(response.get("output"), lane))
    skip = ("item_id", "sequence_number", "output_index", "content_index", "summary_index", "logprobs")
    return list(_leaves({key: value for key, value in payload.items() if key not in skip}, lane))


def parse_object(data: bytes | str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: anything else, too deep nesting included.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
