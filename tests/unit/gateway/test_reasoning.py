"""The request field `reasoning`, control words in messages, and the probe for thinking budgets."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.catalog.models import load_card, model_ids
from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.reasoning.controls import (
    ReasoningOptions,
    resolve_switch,
    take_reasoning_options,
)
from hybridserve.gateway.requests.escaping import escape_request
from hybridserve.guards.special_tokens import token_pattern
from hybridserve.settings import Settings
from hybridserve.settings.reasoning import ReasoningSection
from support.fake_engine import FakeEngine, Response, request

WORDS = ReasoningSection().control_words
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}


def user(content: Any = "hello") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def system(text: str, role: str = "system") -> dict[str, str]:
    return {"role": role, "content": text}


def forwarded(body: dict[str, Any], path: str = "/v1/chat/completions", **reasoning: Any) -> tuple[Response, Any]:
    """The client's response, and the body that reached the engine."""
    engine = FakeEngine(answer=ANSWER)
    app = GatewayMiddleware(engine, Settings.model_validate({"reasoning": reasoning}))
    result = asyncio.run(request(app, path, body))
    return result, engine.bodies[-1] if engine.bodies else {}


# --- the field `reasoning`


@pytest.mark.parametrize(("value", "on"), [("on", True), ("off", False), (True, True), ({"effort": "none"}, False)])
def test_reasoning_field_sets_template_argument(value: Any, on: bool) -> None:
    _, body = forwarded(
        {**user(), "reasoning": value, "chat_template_kwargs": {"low": 1, "enable_thinking": not on}},
        template_kwargs=["enable_thinking", "low"],
    )
    assert body["chat_template_kwargs"] == {"low": 1, "enable_thinking": on}
    assert "reasoning" not in body


def test_request_without_reasoning_field_uses_default() -> None:
    assert forwarded(user())[1] == user()
    assert forwarded(user(), default="off")[1]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    "value", ["maybe", 5, [], {"budget": -1}, {"budget": "x"}, {"budget": True}, {"effort": "x"}, {}]
)
def test_invalid_reasoning_value_is_400(value: Any) -> None:
    result, body = forwarded({**user(), "reasoning": value})
    assert (result.status, result.error["param"], body) == (400, "reasoning", {})


def test_system_switch_replaces_switches_in_messages() -> None:
    messages = [system("Be brief. /think"), {"role": "user", "content": "hi /think"}]
    _, body = forwarded({"messages": messages, "reasoning": "off"}, switch="system")
    first, second = (message["content"] for message in body["messages"])
    assert "/think" not in first + second
    assert first.endswith("\n/no_think")
    _, body = forwarded({**user(), "reasoning": "on"}, switch="system")
    assert body["messages"][0] == system("/think")
    assert body["chat_template_kwargs"] == {"enable_thinking": True}, "the engine's reasoning parser reads only this"


def test_models_and_apis_without_a_switch_reject_the_field() -> None:
    assert forwarded({**user(), "reasoning": "off"}, switch="none")[0].error["code"] == "reasoning_unsupported"
    assert forwarded(user("/think"), switch="none")[1] == user("/think")
    completion = {"prompt": "x", "reasoning": "on"}
    assert forwarded(completion, "/v1/completions")[0].error["code"] == "invalid_reasoning"


# --- switches in the operator's system messages


def options(*messages: dict[str, str], **fields: object) -> ReasoningOptions | None:
    hello = {"role": "user", "content": "hello /no_think"}
    return take_reasoning_options({"messages": [*messages, hello], **fields}, ReasoningSection())


@pytest.mark.parametrize("role", ["system", "developer"])
def test_last_switch_in_system_messages_wins(role: str) -> None:
    assert options(system("Be brief. /no_think", role)) == ReasoningOptions(False)
    assert options(system("/no_think /think", role)) == ReasoningOptions(True)
    assert options(system("/think"), system("/no_think", role)) == ReasoningOptions(False)


def test_switches_in_user_messages_are_ignored() -> None:
    assert options() is None
    assert options(system("Be brief.")) is None


def test_field_and_template_argument_override_system_messages() -> None:
    assert options(system("/no_think"), reasoning="on") == ReasoningOptions(True)
    assert options(system("/no_think"), chat_template_kwargs={"enable_thinking": True}) is None


def test_switch_is_resolved_from_the_model_card() -> None:
    switches = {
        "nemotron-nano-9b-v2": "system",
        "qwen3-8b": "template",
        "demo": "template",
        "granite-4.0-h-small": "none",
    }
    for model, switch in switches.items():
        assert resolve_switch(ReasoningSection(), load_card(model).serving).switch == switch
    assert resolve_switch(ReasoningSection(), None).switch == "template"
    assert resolve_switch(ReasoningSection(switch="none"), load_card("demo").serving).switch == "none"
    assert [model for model in model_ids() if load_card(model).serving.reasoning_switch is None] == []


# --- control words in the text of users and tools


@pytest.mark.parametrize("role", ["user", "tool"])
@pytest.mark.parametrize("word", WORDS)
def test_control_words_of_users_and_tools_are_escaped(role: str, word: str) -> None:
    text = f"what does {word} mean, and thinkpad{word}s?"
    _, body = forwarded({"messages": [{"role": role, "content": text}]})
    escaped = body["messages"][0]["content"]
    assert word not in escaped
    assert escaped.replace("\u2060", "") == text, "the visible text is unchanged"


def test_control_words_of_system_and_assistant_are_kept() -> None:
    messages = [system("/no_think"), {"role": "assistant", "content": "<think>x</think>y"}, *user("plain")["messages"]]
    assert forwarded({"messages": messages})[1]["messages"] == messages


@st.composite
def split_words(draw: st.DrawFn) -> list[str]:
    """Control words and fragments of them, split anywhere."""
    fragments = st.sampled_from([*WORDS, "/", "th", "ink", "<", "no_", " "])
    text = "".join(draw(st.lists(fragments, min_size=1, max_size=5)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(split_words())
def test_control_words_split_across_parts_are_escaped(parts: list[str]) -> None:
    """Templates join parts with nothing, a space or a newline."""
    body = user([{"type": "text", "text": part} for part in parts])
    escape_request(body, token_pattern(WORDS))
    texts = [part["text"] for part in body["messages"][0]["content"]]
    for separator in ("", "\n", " "):
        joined = separator.join(texts)
        assert not any(word in joined for word in WORDS)
    assert [text.replace("\u2060", "") for text in texts] == parts


# --- thinking budgets


@dataclass
class ThinkingEngine:
    """An engine whose model generates `natural` reasoning tokens, then an answer.

    It enforces budgets, ignores them, or rejects the field; its first `failures` responses are 503.
    """

    natural: int = 12
    enforces: bool = True
    rejects: bool = False
    failures: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        self.bodies.append(body)
        status, answer = 200, self._answer(body)
        if self.failures:
            self.failures -= 1
            status, answer = 503, {"error": {"message": "starting"}}
        elif self.rejects and "thinking_token_budget" in body:
            status, answer = 400, {"error": {"message": "reasoning_config is not configured"}}
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        budget = body.get("thinking_token_budget", self.natural) if self.enforces else self.natural
        tokens = min(budget, self.natural)
        content = "the answer" if tokens < body.get("max_tokens", 10**9) else None
        usage = {"total_tokens": 20, "completion_tokens_details": {"reasoning_tokens": tokens}}
        return {"choices": [{"index": 0, "message": {"content": content}}], "usage": usage}


BUDGET = {**user(), "reasoning": {"budget": 5}}


def send(engine: ThinkingEngine, *bodies: Any, **reasoning: Any) -> tuple[GatewayMiddleware, list[Response]]:
    app = GatewayMiddleware(engine, Settings.model_validate({"reasoning": reasoning}))

    async def run() -> list[Response]:
        return [await request(app, body=body) for body in bodies]

    return app, asyncio.run(run())


@pytest.mark.parametrize(
    ("engine", "enforced"),
    [
        (ThinkingEngine(), True),
        (ThinkingEngine(natural=3), True),
        (ThinkingEngine(enforces=False), False),
        (ThinkingEngine(enforces=False, natural=500), False),
        (ThinkingEngine(rejects=True), False),
    ],
)
def test_budgets_are_accepted_only_if_probe_finds_them_enforced(engine: ThinkingEngine, enforced: bool) -> None:
    app, results = send(engine, BUDGET, BUDGET)
    assert app.state.budgets.enforced is enforced
    if enforced:
        assert [body["thinking_token_budget"] for body in engine.bodies] == [2, 5, 5]
    else:
        assert [result.error["code"] for result in results] == ["reasoning_budget_unsupported"] * 2
        assert len(engine.bodies) == 1, "the engine is tested once"


def test_probe_runs_at_startup_if_a_reasoning_parser_is_configured() -> None:
    for model, probed in (("demo", True), ("falcon-h1-0.5b-instruct", False)):
        engine = ThinkingEngine()
        app = GatewayMiddleware(engine, Settings.model_validate({"model": {"id": model}}))

        async def start(app: GatewayMiddleware = app) -> None:
            app.state.start(app)
            await asyncio.wait_for(asyncio.gather(*app.state._tasks), 5)

        asyncio.run(start())
        assert app.state.budgets.enforced is (True if probed else None)
        assert bool(engine.bodies) is probed


def test_probe_is_repeated_after_an_engine_failure() -> None:
    app, results = send(ThinkingEngine(failures=1), BUDGET, BUDGET)
    assert [result.status for result in results] == [503, 200]
    assert results[0].error["code"] == "engine_unavailable"
    assert app.state.budgets.enforced


def test_budget_setting_skips_the_probe() -> None:
    engine = ThinkingEngine()
    effort = {**user(), "reasoning": {"effort": "low"}}
    send(engine, effort, budget="engine", efforts={"low": 3})
    assert [body["thinking_token_budget"] for body in engine.bodies] == [3]
    _, (result,) = send(engine, BUDGET, budget="off")
    assert result.error["code"] == "reasoning_budget_unsupported"
