"""A thinking budget by two calls: reason up to the budget, close the reasoning, go on from there.

It is an ASGI app around the engine's own, so that everything else treats it as one answer. The second call is a raw
completion of the first one's prompt, as the engine rendered it (`return_prompt_text`), plus what was said: no chat
template has to know how to continue. The price is a second prefill, and no tools, several answers or logprobs.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from hybridserve.gateway.errors import APIError, first_header
from hybridserve.gateway.requests.body import BufferedReceive
from hybridserve.gateway.types import App, Event, Receive, Scope, Send
from hybridserve.sse import DONE, SSEDecoder, event_data, split_events

# Fields that mean the same in a chat and in a raw completion.
_SHARED = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "ignore_eos",
    "skip_special_tokens",
    "response_format",
    "structured_outputs",
    "cache_salt",
    "user",
)
_UNSUPPORTED = ("tools", "functions", "logprobs", "top_logprobs", "echo", "continue_final_message")
_LIMITS = ("max_completion_tokens", "max_tokens")


@dataclass(slots=True)
class _Said:
    """What the first call has said so far."""

    prompt: str | None = None
    reasoning: str = ""
    content: str = ""
    finish: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    frame: dict[str, Any] = field(default_factory=dict)

    def take(self, payload: dict[str, Any], part: str) -> None:
        """Note an event's (`part` delta) or a whole answer's (`part` message) words."""
        self.prompt = payload.pop("prompt_text", None) or self.prompt
        self.usage = payload.get("usage") or self.usage
        for choice in payload.get("choices", ()):
            words = choice.get(part) or {}
            self.reasoning += words.get("reasoning") or words.get("reasoning_content") or ""
            self.content += words.get("content") or ""
            self.finish = choice.get("finish_reason") or self.finish
            self.frame = {key: payload[key] for key in ("id", "created", "model") if key in payload}


class TwoPassReasoning:
    """The engine's app with a budget held outside of it.

    Args:
        body: the chat request, without its budget.
        budget: most tokens of reasoning.
        closing: text that ends the reasoning, as the model writes it.
    """

    def __init__(self, app: App, body: dict[str, Any], budget: int, closing: str) -> None:
        self._app = app
        self._body = body
        self._budget = budget
        self._closing = closing
        limits = [body[name] for name in _LIMITS if isinstance(body.get(name), int)]
        self._limit: int | None = limits[0] if limits else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the body, which is known
        stream = self._body.get("stream") is True
        said = _Said()
        first = {key: value for key, value in self._body.items() if key not in _LIMITS}
        cut = self._budget if self._limit is None else min(self._budget, self._limit)
        first |= {"max_completion_tokens": cut, "return_prompt_text": True}
        if stream:
            first["stream_options"] = {"include_usage": True}
        outcome = _Outcome(send, said, "delta" if stream else "message", stream)
        await self._call(scope, receive, "/v1/chat/completions", first, outcome.first)
        if not outcome.usable:
            return
        over = said.finish == "length" and (self._limit is None or self._limit > cut)
        if not over:
            await outcome.end(said.usage)
            return
        if said.prompt is None:
            await outcome.fail(APIError(500, "engine_error", "The engine did not give the prompt to continue from."))
            return
        # Words behind the reasoning mean that the model closed it by itself.
        text = said.prompt + said.reasoning + self._closing + said.content
        second = {key: self._body[key] for key in _SHARED if key in self._body}
        second |= {"prompt": text, "add_special_tokens": False, "stream": stream}
        # A completion without a limit would stop after 16 tokens; a chat fills what is left of the context.
        second["max_tokens"] = None if self._limit is None else self._limit - cut
        if stream:
            second["stream_options"] = {"include_usage": True}
        await self._call(scope, receive, "/v1/completions", second, outcome.second)
        if outcome.usable:
            await outcome.end(_sum(said.usage, outcome.usage))

    async def _call(self, scope: Scope, receive: Receive, path: str, body: dict[str, Any], send: Send) -> None:
        data = json.dumps(body, separators=(",", ":")).encode()
        headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(data)).encode()))
        full = scope.get("root_path", "") + path
        inner = {**scope, "path": full, "raw_path": full.encode(), "headers": headers}
        await self._app(inner, BufferedReceive(receive, data), send)


def validate_two_pass(body: dict[str, Any]) -> None:
    """Raises APIError, 400, where a request needs what two calls cannot give."""
    bad = next((name for name in _UNSUPPORTED if body.get(name)), "n" if (body.get("n") or 1) != 1 else None)
    if bad is not None:
        message = f"A thinking budget cannot be held together with {bad} on this engine."
        raise APIError(400, "reasoning_budget_unsupported", message, param=bad)


class _Outcome:
    """The one answer that the two calls make: forwards the first one's words, then the second one's in its frame."""

    def __init__(self, send: Send, said: _Said, part: str, stream: bool) -> None:
        self._send = send
        self._said = said
        self._part = part
        self._stream = stream
        self._decoder = SSEDecoder()
        self._body: list[bytes] = []
        self._start: Event | None = None
        self._status = 0
        self._whole: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._done = False
        self.usage: dict[str, Any] = {}
        self.usable = False

    async def first(self, message: Event) -> None:
        await self._message(message, self._first_event, self._first_whole)

    async def second(self, message: Event) -> None:
        await self._message(message, self._second_event, self._second_whole)

    async def _message(
        self,
        message: Event,
        on_event: Callable[[dict[str, Any]], Awaitable[None]],
        on_whole: Callable[[dict[str, Any]], None],
    ) -> None:
        if message["type"] == "http.response.start":
            self._status, self.usable, self._done, self._body = message["status"], False, False, []
            self._decoder = SSEDecoder()
            kind = first_header(message["headers"], b"content-type") or b""
            streams = self._stream and self._status == 200 and kind.startswith(b"text/event-stream")
            if self._start is None and (streams or self._status != 200):
                # The first call's start is the answer's; an error in its place is the answer.
                await self._send(message)
            if self._start is None:
                self._start = message
            return
        data = message.get("body", b"")
        if self._status != 200:
            if self._said.frame and not self._more(message):
                await self.fail(APIError(503, "engine_unavailable", "The engine did not go on after its reasoning."))
            elif not self._said.frame:
                await self._send(message)
            return
        if not self._stream:
            self._body.append(data)
            if not self._more(message):
                on_whole(json.loads(b"".join(self._body)))
                self.usable = True
            return
        for event in split_events(self._decoder.feed(data)) if data else ():
            text = event_data(event)
            if text is None:
                await self._emit_raw(event)
            elif text == DONE:
                self._done = True
            else:
                payload = json.loads(text)
                if "error" in payload:
                    await self._emit_raw(event)
                else:
                    await on_event(payload)
        if not self._more(message):
            self.usable = self._done and self._said.finish is not None

    async def _first_event(self, payload: dict[str, Any]) -> None:
        self._said.take(payload, self._part)
        if not payload.get("choices"):
            return
        if self._said.finish is not None:
            # Whether this is the end is only known after the first call; its words, if any, go out with it.
            self._last = payload
            return
        await self._emit(payload)

    async def _second_event(self, payload: dict[str, Any]) -> None:
        self.usage = payload.get("usage") or self.usage
        for choice in payload.get("choices", ()):
            if self._last:
                await self._flush(None)
            delta = {"content": choice.get("text") or ""}
            finish, stop = choice.get("finish_reason"), choice.get("stop_reason")
            await self._emit(
                {
                    **self._said.frame,
                    "object": "chat.completion.chunk",
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "stop_reason": stop}],
                }
            )

    def _first_whole(self, payload: dict[str, Any]) -> None:
        self._said.take(payload, self._part)
        self._whole = payload

    def _second_whole(self, payload: dict[str, Any]) -> None:
        self.usage = payload.get("usage") or {}
        choice, words = self._whole["choices"][0], payload["choices"][0]
        choice["message"]["content"] = self._said.content + words["text"]
        choice["finish_reason"], choice["stop_reason"] = words["finish_reason"], words.get("stop_reason")

    async def end(self, usage: dict[str, Any]) -> None:
        """Close the answer well."""
        if not self._stream:
            assert self._start is not None
            self._whole["usage"] = usage
            headers = [pair for pair in self._start["headers"] if pair[0] != b"content-length"]
            await self._send({**self._start, "headers": headers})
            await self._send({"type": "http.response.body", "body": json.dumps(self._whole).encode()})
            return
        if self._last:
            await self._flush(self._said.finish)
        await self._emit({**self._said.frame, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def fail(self, refusal: APIError) -> None:
        """Close it in a way that shows."""
        self.usable = False
        if self._stream:
            await self._send({"type": "http.response.body", "body": refusal.event(), "more_body": False})
        else:
            await refusal.send(self._send, ())

    async def _flush(self, finish: str | None) -> None:
        payload, self._last = self._last, {}
        for choice in payload["choices"]:
            choice["finish_reason"] = finish
        await self._emit(payload)

    async def _emit(self, payload: dict[str, Any]) -> None:
        await self._emit_raw(b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n")

    async def _emit_raw(self, event: bytes) -> None:
        await self._send({"type": "http.response.body", "body": event, "more_body": True})

    @staticmethod
    def _more(message: Event) -> bool:
        return bool(message.get("more_body", False))


def _sum(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Usage of both calls as one: the first one's prompt, everything that was generated. The second call's prompt is
    what was counted already."""
    details = first.get("completion_tokens_details") or {}
    output = first.get("completion_tokens", 0) + second.get("completion_tokens", 0)
    prompt = first.get("prompt_tokens", 0)
    reasoning = details.get("reasoning_tokens") or 0
    return {
        **first,
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "completion_tokens_details": {**details, "reasoning_tokens": reasoning},
    }
