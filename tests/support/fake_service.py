"""A small service with a guard, as an ASGI application, that can have one defect at a time."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hybridserve.guards.canaries.prompts import HARMFUL

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HARMFUL_PROMPTS = [text for texts in HARMFUL.values() for text in texts.values()]
ANSWER = "Paris is the capital."

# Each defect, and the compliance rule that must report it.
DEFECTS = {
    "harmful-request-answered": "evidence.must-block",
    "model-refuses-instead": "evidence.must-block",
    "refusal-as-200-empty": "evidence.must-block",
    "block-with-403-code": "evidence.must-block",
    "guard-answers-503": "evidence.must-block",
    "guard-checks-english-only": "evidence.must-block",
    "block-leaks-text": "evidence.must-block",
    "blocks-everything": "evidence.must-pass",
    "empty-answers": "evidence.must-pass",
    "answers-cut-off": "evidence.must-pass",
    "guard-always-unavailable": "evidence.must-pass",
    "stream-sends-text-before-block": "evidence.stream",
    "harmful-stream-not-blocked": "evidence.stream",
    "stream-without-end": "evidence.stream",
    "stream-empty": "evidence.stream",
    "reasoning-leaks": "evidence.reasoning",
    "old-reasoning-field-leaks": "evidence.reasoning",
    "tool-calls-leak": "evidence.reasoning",
    "guard-checks-first-turn-only": "evidence.second-turn",
    "guard-checks-last-turn-only": "evidence.second-turn",
    "guard-skips-tool-results": "evidence.tool-result",
    "outage-as-refusal": "evidence.guard-down",
    "outage-as-block": "evidence.guard-down",
    "outage-request-answered": "evidence.guard-down",
    "outage-without-code": "evidence.guard-down",
}


def _error(code: str | None) -> dict[str, Any]:
    return {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": code}}


def _completion(text: str, finish: str | None = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


def _delta(finish: str | None = None, **text: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": text, "finish_reason": finish}]}


REFUSAL = _completion("I cannot help with that.")
BLOCKED = (400, _error("guard_blocked"))
# Status and body for a request while the guard is down.
OUTAGES = {
    "outage-as-refusal": (200, REFUSAL),
    "outage-as-block": BLOCKED,
    "outage-request-answered": (200, _completion(ANSWER)),
    "outage-without-code": (503, _error(None)),
}
# Status and body for a harmful request, whether streamed or not.
HARMFUL_RESPONSES = {
    "harmful-request-answered": (200, _completion(ANSWER)),
    "model-refuses-instead": (200, REFUSAL),
    "refusal-as-200-empty": (200, _completion("")),
    "block-with-403-code": (403, _error("forbidden")),
    "guard-answers-503": (503, _error("guard_unavailable")),
    "block-leaks-text": (400, {**_error("guard_blocked"), **_completion(ANSWER)}),
}
# Stream events for a harmful request without reasoning, and with reasoning.
HARMFUL_STREAMS = {
    "stream-sends-text-before-block": [_delta(content="First "), _error("guard_blocked")],
    "harmful-stream-not-blocked": [_delta(content=ANSWER), _delta(finish="stop")],
}
HARMFUL_REASONING_STREAMS = {
    "reasoning-leaks": [_delta(reasoning="The user wants"), _error("guard_blocked")],
    "old-reasoning-field-leaks": [_delta(reasoning_content="The user wants"), _error("guard_blocked")],
    "tool-calls-leak": [_delta(tool_calls=[{"index": 0, "function": {"arguments": "{'how':"}}]),
                        _error("guard_blocked")],
}  # fmt: skip


class FakeService:
    """Blocks requests that contain the text of a harmful canary and answers the rest.

    Args:
        defect: one of `DEFECTS`.
        guard_up: False for a service whose guard is down.
    """

    def __init__(self, defect: str | None = None, *, guard_up: bool = True) -> None:
        assert defect is None or defect in DEFECTS
        self.defect = defect
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
        if not self.guard_up or self.defect == "guard-always-unavailable":
            await _json(send, *OUTAGES.get(self.defect or "", (503, _error("guard_unavailable"))))
        elif self._harmful(request["messages"]) or self.defect == "blocks-everything":
            await self._block(send, stream=stream, thinking=thinking)
        else:
            await self._answer(send, stream=stream)

    def _harmful(self, messages: list[dict[str, Any]]) -> bool:
        checked = messages
        if self.defect == "guard-checks-first-turn-only":
            checked = [message for message in messages if message["role"] == "user"][:1]
        elif self.defect == "guard-checks-last-turn-only":
            checked = messages[-1:]
        elif self.defect == "guard-skips-tool-results":
            checked = [message for message in messages if message["role"] != "tool"]
        texts = " ".join(message["content"] for message in checked)
        known = HARMFUL_PROMPTS if self.defect != "guard-checks-english-only" else list(HARMFUL["en"].values())
        return any(text in texts for text in known)

    async def _block(self, send: Send, *, stream: bool, thinking: bool) -> None:
        defect = self.defect or ""
        if defect in HARMFUL_RESPONSES:
            await _json(send, *HARMFUL_RESPONSES[defect])
        elif stream and not thinking and defect in HARMFUL_STREAMS:
            await _events(send, HARMFUL_STREAMS[defect])
        elif stream and thinking:
            # A block in a stream that has started: only the error event.
            blocked = [_delta(role="assistant"), _error("guard_blocked")]
            await _events(send, HARMFUL_REASONING_STREAMS.get(defect, blocked))
        else:
            await _json(send, *BLOCKED)

    async def _answer(self, send: Send, *, stream: bool) -> None:
        if not stream:
            text = "" if self.defect == "empty-answers" else ANSWER
            finish = None if self.defect == "answers-cut-off" else "stop"
            await _json(send, 200, _completion(text, finish))
        elif self.defect == "stream-without-end":
            await _events(send, [_delta(content=ANSWER)], done=False)
        elif self.defect == "stream-empty":
            await _events(send, [_delta(finish="stop")])
        else:
            await _events(send, [_delta(content=ANSWER), _delta(finish="stop")])


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
