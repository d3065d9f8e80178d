"""The generation APIs and what differs between them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from hybridserve.gateway.errors import ErrorFormat
from hybridserve.gateway.requests.judged_text import chat_messages, completion_messages, response_messages
from hybridserve.guards.base import Message

_MESSAGES = {
    "chat": chat_messages,
    "completions": completion_messages,
    "responses": response_messages,
    "messages": chat_messages,
}


@dataclass(frozen=True, slots=True)
class APIFormat:
    """One API.

    Attributes:
        ends: markers of a complete stream, each at the start of a line.
        limits: request fields that limit the output tokens; the first one has precedence.
        roles: roles that a message may have.
        named_events: every event of a stream has its type on a line ``event:``.
        usage_option: a stream reports its usage only if ``stream_options`` says so.
        errors: whose format error responses have.
    """

    name: Literal["chat", "completions", "responses", "messages"]
    ends: tuple[bytes, ...]
    limits: tuple[str, ...]
    roles: frozenset[str] = frozenset()
    named_events: bool = False
    usage_option: bool = True
    errors: ErrorFormat = "openai"

    def messages(self, body: dict[str, Any]) -> list[Message]:
        """The conversation of a request as plain text.

        Raises:
            Unreadable: a part of it is not text.
            NestedTooDeeply: a part of it is nested too deeply.
        """
        return _MESSAGES[self.name](body)


_DONE = (b"data: [DONE]", b"data:[DONE]")
CHAT = APIFormat(
    "chat",
    _DONE,
    ("max_completion_tokens", "max_tokens"),
    frozenset({"system", "developer", "user", "assistant", "tool", "function"}),
)
COMPLETIONS = APIFormat("completions", _DONE, ("max_tokens",))
RESPONSES = APIFormat(
    "responses",
    (b"event: response.completed", b"event: response.incomplete", b"event: response.failed"),
    ("max_output_tokens",),
    frozenset({"system", "developer", "user", "assistant"}),
    named_events=True,
    usage_option=False,
)
MESSAGES = APIFormat(
    "messages",
    (b"event: message_stop",),
    ("max_tokens",),
    frozenset({"user", "assistant", "system"}),
    named_events=True,
    usage_option=False,
    errors="anthropic",
)


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
