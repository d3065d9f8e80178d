"""A small honest service with a guard, as an ASGI application, that can be told to misbehave in one way at a time."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hybridserve.compliance.canary_prompts import HARMFUL

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HARM = [text for texts in HARMFUL.values() for text in texts.values()]
ANSWER = "Paris is the capital."

# What it can do wrong, and the rule that must say so.
MISBEHAVIOURS = {
    "serves-harm": "evidence.must-block",
    "model-refuses-instead": "evidence.must-block",
    "refusal-as-200-empty": "evidence.must-block",
    "block-with-403-code": "evidence.must-block",
    "guard-answers-503": "evidence.must-block",
    "spanish-passes": "evidence.must-block",
    "block-leaks-text": "evidence.must-block",
    "blocks-everything": "evidence.must-pass",
    "empty-answers": "evidence.must-pass",
    "answers-cut-off": "evidence.must-pass",
    "guard-down-always": "evidence.must-pass",
    "stream-first": "evidence.stream",
    "stream-passes": "evidence.stream",
    "stream-without-end": "evidence.stream",
    "stream-empty": "evidence.stream",
    "reasoning-leaks": "evidence.reasoning",
    "old-reasoning-field-leaks": "evidence.reasoning",
    "tool-calls-leak": "evidence.reasoning",
    "first-turn-only": "evidence.second-turn",
    "last-turn-only": "evidence.second-turn",
    "tool-results-unseen": "evidence.tool-result",
    "outage-as-refusal": "evidence.guard-down",
    "outage-as-block": "evidence.guard-down",
    "outage-passes": "evidence.guard-down",
    "outage-without-code": "evidence.guard-down",
}


class FakeService:
    """Blocks what holds a harmful canary's text; answers the rest. `guard_up` False plays a dead guard."""

    def __init__(self, wrong: str | None = None, *, guard_up: bool = True) -> None:
        assert wrong is None or wrong in MISBEHAVIOURS
        self.wrong = wrong
        self.guard_up = guard_up
        self.keys: list[str | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.keys.append(headers.get("authorization"))
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = json.loads(body)
        stream, thinking = bool(request.get("stream")), "chat_template_kwargs" in request
        if not self.guard_up or self.wrong == "guard-down-always":
            await self._outage(send)
        elif self._harmful(request["messages"]) or self.wrong == "blocks-everything":
            await self._blocked(send, stream=stream, thinking=thinking)
        else:
            await self._answer(send, stream=stream)

    def _harmful(self, messages: list[dict[str, Any]]) -> bool:
        users = [one for one in messages if one["role"] == "user"]
        checked = messages
        if self.wrong == "first-turn-only":
            checked = users[:1]
        elif self.wrong == "last-turn-only":
            checked = messages[-1:]
        elif self.wrong == "tool-results-unseen":
            checked = [one for one in messages if one["role"] != "tool"]
        texts = " ".join(one["content"] for one in checked)
        known = HARM if self.wrong != "spanish-passes" else list(HARMFUL["en"].values())
        return any(text in texts for text in known)

    async def _outage(self, send: Send) -> None:
        if self.wrong == "outage-as-refusal":
            await _json(send, 200, _completion("I cannot help with that."))
        elif self.wrong == "outage-as-block":
            await _json(send, 400, _error("guard_blocked"))
        elif self.wrong == "outage-passes":
            await _json(send, 200, _completion(ANSWER))
        elif self.wrong == "outage-without-code":
            await _json(send, 503, _error(None))
        else:
            await _json(send, 503, _error("guard_unavailable"))

    async def _blocked(self, send: Send, *, stream: bool, thinking: bool) -> None:
        wrong = self.wrong
        if wrong == "serves-harm":
            await _json(send, 200, _completion(ANSWER))
        elif wrong == "model-refuses-instead":
            await _json(send, 200, _completion("I cannot help with that."))
        elif wrong == "refusal-as-200-empty":
            await _json(send, 200, _completion(""))
        elif wrong == "block-with-403-code":
            await _json(send, 403, _error("forbidden"))
        elif wrong == "guard-answers-503":
            await _json(send, 503, _error("guard_unavailable"))
        elif wrong == "block-leaks-text":
            await _json(send, 400, {**_error("guard_blocked"), **_completion(ANSWER)})
        elif wrong == "stream-first" and stream and not thinking:
            await _events(send, [_delta(content="First "), _error("guard_blocked")])
        elif wrong == "stream-passes" and stream and not thinking:
            await _events(send, [_delta(content=ANSWER), _delta(finish="stop")])
        elif wrong == "reasoning-leaks" and thinking:
            await _events(send, [_delta(reasoning="The user wants"), _error("guard_blocked")])
        elif wrong == "old-reasoning-field-leaks" and thinking:
            await _events(send, [_delta(reasoning_content="The user wants"), _error("guard_blocked")])
        elif wrong == "tool-calls-leak" and thinking:
            calls = [{"index": 0, "function": {"arguments": "{'how':"}}]
            await _events(send, [_delta(tool_calls=calls), _error("guard_blocked")])
        elif stream and thinking:
            # An honest block inside a stream that has begun: nothing but the error.
            await _events(send, [_delta(role="assistant"), _error("guard_blocked")])
        else:
            await _json(send, 400, _error("guard_blocked"))

    async def _answer(self, send: Send, *, stream: bool) -> None:
        if not stream:
            text = "" if self.wrong == "empty-answers" else ANSWER
            finish = None if self.wrong == "answers-cut-off" else "stop"
            await _json(send, 200, _completion(text, finish))
        elif self.wrong == "stream-without-end":
            await _events(send, [_delta(content=ANSWER)], done=False)
        elif self.wrong == "stream-empty":
            await _events(send, [_delta(finish="stop")])
        else:
            await _events(send, [_delta(content=ANSWER), _delta(finish="stop")])


def _error(code: str | None) -> dict[str, Any]:
    return {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": code}}


def _completion(text: str, finish: str | None = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


def _delta(finish: str | None = None, **text: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": text, "finish_reason": finish}]}


async def _json(send: Send, status: int, body: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _events(send: Send, events: list[dict[str, Any]], *, done: bool = True) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in events:
        await send({"type": "http.response.body", "body": f"data: {json.dumps(event)}\n\n".encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if done else b""})
