"""The gateway in front of a fake engine, and a guard that blocks a word."""

from __future__ import annotations

import asyncio
from typing import Any

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.gateway import GatewayMiddleware, GatewayState
from hybridserve.guards import GuardVerdict, Message, ResilientGuard, Stage
from hybridserve.settings import Settings
from support.fake_engine import DONE, FakeEngine, Response, chunk, request, sse

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
STREAM_CHAT = {**CHAT, "stream": True}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}], "usage": {"total_tokens": 50}}
STREAM: list[Any] = [sse(chunk()), sse(chunk("hi")), DONE]


class WordGuard:
    """Blocks a word in prompts and answers, and records what it was asked to check."""

    name = "word"
    is_local = False

    def __init__(self, word: str = "BANNED", delay: float = 0.0, fail: bool = False) -> None:
        self.word = word
        self.delay = delay
        self.fail = fail
        self.closed = False
        self.checked: list[tuple[Stage, list[Message]]] = []

    async def check(self, messages: Any, stage: Stage) -> GuardVerdict:
        self.checked.append((stage, list(messages)))
        await asyncio.sleep(self.delay)
        await self.probe()
        relevant = messages[-1:] if stage == "output" else messages
        blocked = any(self.word in message["content"] for message in relevant)
        return GuardVerdict("block" if blocked else "allow", self.name, ("Word",) if blocked else ())

    async def probe(self) -> None:
        if self.fail:
            raise ZeroDivisionError

    async def close(self) -> None:
        self.closed = True


def gateway(app: Any = None, guard: WordGuard | None = None, /, **sections: Any) -> GatewayMiddleware:
    """The gateway in front of `app`, by default a fake engine, with these sections of the settings."""
    if guard is not None:
        sections["guard"] = {"kind": "rules", "window_tokens": 10, "overlap_tokens": 3, **sections.get("guard", {})}
    settings = Settings.model_validate(sections)
    resilient = ResilientGuard(guard, retries=0, timeout_s=settings.guard.timeout_s) if guard is not None else None
    state = GatewayState(DeploymentSpec(settings=settings), guard=resilient)
    return GatewayMiddleware(app or FakeEngine(STREAM, ANSWER), state=state)


def send(app: Any, body: Any = CHAT, path: str = "/v1/chat/completions", **options: Any) -> Response:
    """Send one request."""
    return asyncio.run(request(app, path, body, **options))


def send_stream(app: Any, body: Any = STREAM_CHAT, path: str = "/v1/chat/completions", **options: Any) -> Response:
    """Send one request with a streamed response."""
    return send(app, body, path, **options)


def get(app: Any, path: str, **options: Any) -> Response:
    return send(app, None, path, method="GET", **options)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def assert_openai_error(response: Response, status: int, code: str) -> None:
    assert response.status == status
    assert response.headers["content-type"] == "application/json"
    assert set(response.error) >= {"message", "type", "param", "code"}
    assert response.error["code"] == code
    assert response.headers["x-request-id"]


def assert_incomplete(response: Response, code: str) -> None:
    """The client can tell: the last event is an error and no [DONE] follows, or the whole response is an error."""
    assert not response.done
    error = response.payloads[-1]["error"] if response.status == 200 else response.error
    assert error["code"] == code
    assert response.complete
