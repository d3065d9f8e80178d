"""The content of a stream of server-sent events, parsed after it ended: no JSON is parsed while tokens are timed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridserve.sse import DONE, event_data


@dataclass(slots=True)
class Stream:
    """One answer. Times are those of the events."""

    chunks: list[float] = field(default_factory=list)
    first_answer: float | None = None
    end: float | None = None
    finish_reason: str | None = None
    done: bool = False
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    reasoning_chunks: int = 0
    text: list[str] = field(default_factory=list)
    """Pieces of the answer, without reasoning, for the next turn of a conversation."""
    tools: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def output_tokens(self) -> int:
        return int(self.usage["completion_tokens"]) if self.usage else len(self.chunks)

    @property
    def prompt_tokens(self) -> int:
        return int(self.usage.get("prompt_tokens", 0)) if self.usage else 0

    @property
    def cached_tokens(self) -> int | None:
        """The server's count of prompt tokens from its cache; None where it reports none."""
        details = (self.usage or {}).get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens")
        return None if cached is None else int(cached)

    @property
    def reasoning_tokens(self) -> int:
        """The server's count; otherwise the share of reasoning chunks (exact with one token in a chunk)."""
        details = (self.usage or {}).get("completion_tokens_details") or {}
        if details.get("reasoning_tokens") is not None:
            return int(details["reasoning_tokens"])
        if not self.chunks:
            return 0
        return round(self.output_tokens * self.reasoning_chunks / len(self.chunks))

    @property
    def tool_calls_are_json(self) -> bool:
        """At least one tool was called, and every call has a name and arguments that parse."""
        try:
            parsed = [json.loads(call["arguments"]) for call in self.tools.values() if call["name"]]
        except ValueError:
            return False
        return bool(parsed) and len(parsed) == len(self.tools)


def parse_stream(lines: Sequence[tuple[float, bytes]]) -> Stream:
    """Parse the lines of a stream, each with its arrival time.

    A chunk counts as a token unless it only announces the role or only carries the finish reason of a chat. A
    completion's chunk always counts: a token may have no text (half of a character).
    """
    stream = Stream()
    for time, line in lines:
        try:
            data = event_data(line)
            if data is None:
                continue
            if data.strip() == DONE:
                stream.done = True
                continue
            event = json.loads(data)
        except ValueError:
            # Cut in the middle of an event: earlier events still count, and `done` stays false.
            continue
        if not isinstance(event, dict):
            continue
        if "error" in event:
            error = event["error"]
            stream.error = error if isinstance(error, dict) else {"message": str(error)}
            stream.end = time
            continue
        stream.end = time
        try:
            stream.usage = _usage(event.get("usage")) or stream.usage
            for choice in event.get("choices") or ():
                _add_choice(stream, time, choice)
        except (AttributeError, TypeError):
            # Lists instead of objects, numbers instead of strings: not this API.
            stream.error = {"message": "an event is not a chunk of this API"}
    return stream


def _usage(given: Any) -> dict[str, Any] | None:
    """The integer counts; None when there are none."""
    if not isinstance(given, dict) or not isinstance(given.get("completion_tokens"), int):
        return None
    kept: dict[str, Any] = {name: value for name, value in given.items() if isinstance(value, int)}
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        if isinstance(details := given.get(name), dict):
            kept[name] = {inner: value for inner, value in details.items() if isinstance(value, int)}
    return kept


def _add_choice(stream: Stream, time: float, choice: dict[str, Any]) -> None:
    if choice.get("finish_reason"):
        stream.finish_reason = choice["finish_reason"]
    delta = choice.get("delta")
    if delta is None:
        stream.chunks.append(time)
        stream.text.append(choice.get("text") or "")
        stream.first_answer = time if stream.first_answer is None else stream.first_answer
        return
    content = delta.get("content")
    reasoning = delta.get("reasoning") or delta.get("reasoning_content")
    tools = delta.get("tool_calls") or ()
    if not (content or reasoning or tools) and ("role" in delta or choice.get("finish_reason") or content is None):
        return
    stream.chunks.append(time)
    if reasoning and not (content or tools):
        stream.reasoning_chunks += 1
    elif stream.first_answer is None:
        stream.first_answer = time
    if content:
        stream.text.append(content)
    for call in tools:
        tool = stream.tools.setdefault(call.get("index", 0), {"name": "", "arguments": ""})
        function = call.get("function") or {}
        tool["name"] += function.get("name") or ""
        tool["arguments"] += function.get("arguments") or ""
