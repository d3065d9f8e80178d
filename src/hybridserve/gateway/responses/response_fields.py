"""Fields that may leave in a response while a guard checks the output, and the text in them that it must judge.

Every field is listed. A field that is not listed is removed unless it is empty: log probabilities, token IDs, the
prompt and other copies of text that the guard does not read, and whatever a later engine adds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from hybridserve.gateway.requests.judged_text import lines

# Index of the choice, then the place of the text in it.
ChannelKey: TypeAlias = tuple[object, ...]
Texts: TypeAlias = list[tuple[ChannelKey, str]]
Rule: TypeAlias = "str | Mapping[str, Rule]"
Fields: TypeAlias = Mapping[str, Rule]

LABEL = "label"
"""Set by the engine or repeated from the request: it leaves without a check."""
TEXT = "text"
"""Text of the model, with a channel of its own."""
COUNTS = "counts"
"""Numbers of the engine; it is removed if there is text in it."""
ID = "id"
"""As `TEXT`, unless it is hexadecimal: an identifier that the engine made, or one that the model wrote."""
STOP = "stop"
"""The stop string that the model wrote: it continues the answer and the reasoning."""


def _labels(*names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, LABEL)


_FUNCTION: Fields = {"name": TEXT, "arguments": TEXT}
_CALL: Fields = {**_labels("index", "type"), "id": ID, "function": _FUNCTION}
_MESSAGE: Fields = {
    **_labels("role"),
    **dict.fromkeys(("content", "reasoning", "reasoning_content", "refusal"), TEXT),
    "tool_calls": _CALL,
    "function_call": _FUNCTION,
}
_CHOICE: Fields = {
    **_labels("index", "finish_reason"),
    "stop_reason": STOP,
    "delta": _MESSAGE,
    "message": _MESSAGE,
    "text": TEXT,
}
_CHOICES: Fields = {
    **_labels("id", "object", "created", "model", "service_tier", "system_fingerprint"),
    "usage": COUNTS,
    "metrics": COUNTS,
    "choices": _CHOICE,
}

_PART: Fields = {**_labels("type"), "text": TEXT, "refusal": TEXT}
_ITEM: Fields = {
    **_labels("id", "type", "role", "status", "phase", "server_label", "container_id"),
    **dict.fromkeys(("name", "namespace", "arguments", "input", "output", "code", "action", "outputs", "error"), TEXT),
    "call_id": ID,
    "summary": _PART,
    "content": _PART,
}
_RESPONSE: Fields = {
    **_labels(
        "id", "object", "created_at", "completed_at", "model", "status", "incomplete_details", "background",
        "max_output_tokens", "max_tool_calls", "parallel_tool_calls", "previous_response_id", "service_tier",
        "temperature", "top_p", "top_logprobs", "truncation", "presence_penalty", "frequency_penalty",
        # repeated from the request
        "instructions", "metadata", "prompt", "reasoning", "text", "tool_choice", "tools", "user",
    ),
    "usage": COUNTS,
    "output": _ITEM,
}  # fmt: skip
_RESPONSE_EVENT: Fields = {
    **_labels("type", "sequence_number", "item_id", "output_index", "content_index", "summary_index"),
    **dict.fromkeys(("delta", "text", "arguments", "code", "refusal", "name"), TEXT),
    "item": _ITEM,
    "part": _PART,
    "response": _RESPONSE,
}

_BLOCK: Fields = {
    **_labels("type"),
    "text": TEXT,
    "thinking": TEXT,
    "signature": ID,
    "id": ID,
    "name": TEXT,
    "input": TEXT,
    "partial_json": TEXT,
    "stop_reason": LABEL,
    "stop_sequence": STOP,
}
_ANTHROPIC: Fields = {
    **_labels("id", "type", "role", "model", "stop_reason", "index"),
    "usage": COUNTS,
    "stop_sequence": STOP,
    "content": _BLOCK,
}
_ANTHROPIC_EVENT: Fields = {**_labels("type", "index"), "usage": COUNTS, "message": _ANTHROPIC, "content_block": _BLOCK,
                            "delta": _BLOCK}  # fmt: skip

RESPONSES_BY_API: Mapping[str, Fields] = {
    "chat": _CHOICES,
    "completions": _CHOICES,
    "responses": _RESPONSE,
    "messages": _ANTHROPIC,
}
EVENTS_BY_API: Mapping[str, Fields] = {**RESPONSES_BY_API, "responses": _RESPONSE_EVENT, "messages": _ANTHROPIC_EVENT}
# A chunk as nearly all are: one choice with text and nothing else.
_CHUNK = frozenset(_CHOICES) - {"usage", "metrics"}
_CHUNK_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason", "stop_reason", "token_ids"})
_MADE_BY_THE_ENGINE = re.compile(r"(?:[a-z]{2,8}[-_])?(?:tool-)?[0-9a-f-]{8,64}")
_STOPPED: Mapping[str, tuple[ChannelKey, ...]] = {
    "chat": (("content",), ("reasoning",)),
    "completions": (("text",),),
    "messages": (("text",), ("thinking",)),
}


def read_response(api: str, payload: dict[str, Any]) -> tuple[dict[str, Any], Texts]:
    """A whole response with the fields that may leave, and its text by channel.

    Raises:
        NestedTooDeeply: a part of it is nested too deeply.
    """
    return _read(api, payload, RESPONSES_BY_API[api])


def read_event(api: str, payload: dict[str, Any]) -> tuple[dict[str, Any], Texts]:
    """As `read_response`, for one event of a stream: the text that it adds, with the channels that it continues."""
    return (_read_chunk(payload) if api == "chat" else None) or _read(api, payload, EVENTS_BY_API[api])


def _read_chunk(payload: dict[str, Any]) -> tuple[dict[str, Any], Texts] | None:
    """`read_event` for a chunk with one choice and one text, in a third of the time; None for any other."""
    try:
        (choice,) = payload["choices"]
        ((key, text),) = choice["delta"].items()
        if (
            (key == "content" or key == "reasoning")
            and type(text) is str
            and payload.keys() <= _CHUNK
            and choice.keys() <= _CHUNK_CHOICE
            and not (choice.get("logprobs") or choice.get("token_ids") or choice.get("stop_reason"))
        ):
            return payload, [((choice.get("index", 0), key), text)] if text else []
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    return None


def finished_choices(payload: dict[str, Any]) -> Collection[object]:
    """Choices (first element of their channels) that end with this event."""
    choices = payload.get("choices")
    if not isinstance(choices, list):
        return ()
    return {c.get("index", 0) for c in choices if isinstance(c, dict) and c.get("finish_reason") is not None}


def _is_numbers(value: object) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return all(map(_is_numbers, inner)) if inner is not None else not isinstance(value, str)


def _read(api: str, payload: dict[str, Any], fields: Fields) -> tuple[dict[str, Any], Texts]:
    reader = _Reader(api, payload.get("index"))
    channel: ChannelKey = (0,)
    if api == "responses" and fields is _RESPONSE_EVENT:
        indexes = (payload.get("output_index"), payload.get("content_index"), payload.get("summary_index"))
        channel = (0, *indexes, payload.get("type"))
    kept = reader.object(payload, fields, channel)
    return kept, reader.texts


class _Reader:
    """Reads one payload; `texts` is what it found."""

    __slots__ = ("_api", "_index", "texts")

    def __init__(self, api: str, index: object) -> None:
        self._api = api
        self._index = index
        self.texts: Texts = []

    def object(self, value: dict[str, Any], fields: Fields, channel: ChannelKey) -> dict[str, Any]:
        """The object without fields that may not leave; the same object if all may."""
        kept = value
        for key, inner in value.items():
            rule = fields.get(key)
            if rule is LABEL or not inner or inner is True:  # an empty value and a flag hold no text
                continue
            if rule is TEXT and type(inner) is str:
                self.texts.append(((*channel, key), inner))
                continue
            new = None if rule is None else self._value(key, inner, rule, channel)
            if new is not inner:
                kept = dict(kept) if kept is value else kept
                if new is None:
                    del kept[key]
                    if isinstance(inner, list):
                        kept[key] = []  # clients expect lists to be there
                else:
                    kept[key] = new
        return kept

    def _value(self, key: str, value: Any, rule: Rule, channel: ChannelKey) -> Any:
        if not isinstance(rule, str):
            return self._inner(key, value, rule, channel)
        if rule == STOP:
            if isinstance(value, str):
                # Twice: the engine may have cut the answer inside a word, or trimmed a space before the string.
                both = f"{value}\n{value}"
                self.texts += [((channel[0], *place), both) for place in _STOPPED.get(self._api, ())]
            return value if isinstance(value, (str, int)) else None
        if rule == COUNTS:
            return value if _is_numbers(value) else None
        if rule == ID and isinstance(value, str) and _MADE_BY_THE_ENGINE.fullmatch(value):
            return value
        if isinstance(value, str):
            self.texts.append(((*channel, key), value))
        else:
            self.texts += [((*channel, key), line + "\n") for line in lines(value)]
        return value

    def _inner(self, key: str, value: Any, fields: Fields, channel: ChannelKey) -> Any:
        if isinstance(value, dict):
            return self.object(value, fields, self._channel(key, value, channel, None))
        if not isinstance(value, list):
            # Text where an object should be is judged all the same.
            return self._value(key, value, TEXT, channel) if isinstance(value, str) else None
        new = []
        for position, inner in enumerate(value):
            if isinstance(inner, dict):
                new.append(self.object(inner, fields, self._channel(key, inner, channel, position)))
            elif isinstance(inner, str):
                new.append(self._value(key, inner, TEXT, channel))
        return value if len(new) == len(value) and all(a is b for a, b in zip(new, value, strict=True)) else new

    def _channel(self, key: str, value: dict[str, Any], channel: ChannelKey, position: int | None) -> ChannelKey:
        """The channel of an object. Pieces of a tool call share one by its index."""
        if self._api == "messages":
            # Blocks of text continue each other; a tool call is one block.
            is_call = value.get("type") in ("tool_use", "input_json_delta")
            return (0, "tool", self._index if position is None else position) if is_call else (0,)
        if key == "choices":
            return (value.get("index", position),)
        if key in ("delta", "message"):  # some servers end a stream of deltas with a whole message
            return channel
        return (*channel, key) if position is None else (*channel, key, value.get("index", position))
