"""Streams through the door in tests, with a guard that blocks a word."""

from __future__ import annotations

import asyncio
from typing import Any

from hybridserve.gateway import GatewayConfig, GatewayMiddleware, GatewayState
from hybridserve.guards import GuardVerdict, Message, ResilientGuard, Stage
from hybridserve.settings import Settings
from support.fake_engine import Result, SmallEngine, call

CHAT = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
BANNED = "-----BEGIN PRIVATE KEY-----"


class Word:
    """A guard that blocks a word on either side, and remembers what it was asked."""

    name = "word"
    is_local = False

    def __init__(self, word: str = "BANNED", delay: float = 0.0, fail: bool = False) -> None:
        self.word = word
        self.delay = delay
        self.fail = fail
        self.closed = False
        self.asked: list[tuple[Stage, list[Message]]] = []

    async def check(self, messages: Any, stage: Stage) -> GuardVerdict:
        self.asked.append((stage, list(messages)))
        await asyncio.sleep(self.delay)
        if self.fail:
            raise ZeroDivisionError
        judged = messages[-1:] if stage == "output" else messages
        bad = any(self.word in message["content"] for message in judged)
        return GuardVerdict("block" if bad else "allow", self.name, ("Word",) if bad else ())

    async def probe(self) -> None:
        if self.fail:
            raise ZeroDivisionError

    async def close(self) -> None:
        self.closed = True


def door(engine: SmallEngine, word: Word | None = None, **sections: Any) -> GatewayMiddleware:
    if word is not None:
        sections["guard"] = {"kind": "rules", "window_tokens": 10, "overlap_tokens": 3, **sections.get("guard", {})}
    settings = Settings.model_validate(sections)
    shell = None if word is None else ResilientGuard(word, retries=0, timeout_s=settings.guard.timeout_s)
    return GatewayMiddleware(engine, state=GatewayState(GatewayConfig(settings), guard=shell))


def ask(app: Any, body: Any = CHAT, **more: Any) -> Result:
    return asyncio.run(call(app, body=body, **more))


def assert_cut(result: Result, code: str) -> None:
    """The client can tell: the last event is an error, no [DONE] follows, and the answer is complete HTTP.

    Where nothing had left before, the answer is an error with its status.
    """
    assert not result.done
    error = result.payloads[-1]["error"] if result.status == 200 else result.error
    assert error["code"] == code
    assert result.complete
