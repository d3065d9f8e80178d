"""Asking the door in tests: the middleware before an engine of a few lines."""

from __future__ import annotations

import asyncio
from typing import Any

from hybridserve.gateway import GatewayMiddleware
from hybridserve.settings import Settings
from support.fake_engine import DONE, Result, SmallEngine, call, chunk, sse

CHAT = {"messages": [{"role": "user", "content": "hello"}]}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}], "usage": {"total_tokens": 50}}
STREAM = [sse(chunk()), sse(chunk("hi")), DONE]


def door(engine: SmallEngine | None = None, **sections: Any) -> GatewayMiddleware:
    return GatewayMiddleware(engine or SmallEngine(STREAM, ANSWER), Settings.model_validate(sections))


def ask(app: Any, body: Any = CHAT, path: str = "/v1/chat/completions", **more: Any) -> Result:
    return asyncio.run(call(app, path, body, **more))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def assert_openai_error(result: Result, status: int, code: str) -> None:
    assert result.status == status
    assert result.headers["content-type"] == "application/json"
    assert set(result.error) >= {"message", "type", "param", "code"}
    assert result.error["code"] == code
    assert result.headers["x-request-id"]
