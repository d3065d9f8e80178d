"""The reasoning field, control words in the text of users, and budgets: probed, and held by two calls."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.reasoning.controls import escape_control_tokens
from hybridserve.settings import Settings
from hybridserve.settings.reasoning import ReasoningSection
from support.fake_engine import DONE, Result, SmallEngine, call, sse

WORDS = ReasoningSection().control_words
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}


def user(content: Any = "hello") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def sent(body: dict[str, Any], **reasoning: Any) -> tuple[Result, dict[str, Any]]:
    engine = SmallEngine(answer=ANSWER)
    app = GatewayMiddleware(engine, Settings.model_validate({"reasoning": reasoning}))
    result = asyncio.run(call(app, body=body))
    return result, engine.bodies[-1] if engine.bodies else {}


@pytest.mark.parametrize(("value", "on"), [("on", True), ("off", False), (True, True), ({"effort": "none"}, False)])
def test_the_switch_reaches_the_template(value: Any, on: bool) -> None:
    _, body = sent({**user(), "reasoning": value, "chat_template_kwargs": {"other": 1, "enable_thinking": not on}})
    assert body["chat_template_kwargs"] == {"other": 1, "enable_thinking": on}
    assert "reasoning" not in body


def test_what_says_nothing_is_left_alone() -> None:
    assert sent(user())[1] == user()
    assert sent(user(), default="off")[1]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    "value", ["maybe", 5, [], {"budget": -1}, {"budget": "x"}, {"budget": True}, {"effort": "x"}, {}]
)
def test_other_values_are_400(value: Any) -> None:
    result, body = sent({**user(), "reasoning": value})
    assert (result.status, result.error["param"], body) == (400, "reasoning", {})


def test_a_system_switch_takes_out_the_clients_own() -> None:
    messages = [{"role": "system", "content": "Be brief. /think"}, {"role": "user", "content": "hi /think"}]
    _, body = sent({"messages": messages, "reasoning": "off"}, switch="system")
    system, asked = (message["content"] for message in body["messages"])
    assert "/think" not in system + asked
    assert system.endswith("\n/no_think")
    _, body = sent({**user(), "reasoning": "on"}, switch="system")
    assert body["messages"][0] == {"role": "system", "content": "/think"}


def test_no_switch_no_promise() -> None:
    assert sent({**user(), "reasoning": "off"}, switch="none")[0].error["code"] == "reasoning_unsupported"
    assert sent(user("/think"), switch="none")[1] == user("/think")


def test_a_raw_completion_has_no_switch() -> None:
    app = GatewayMiddleware(SmallEngine(answer=ANSWER), Settings())
    result = asyncio.run(call(app, "/v1/completions", {"prompt": "x", "reasoning": "on"}))
    assert result.error["code"] == "invalid_reasoning"


# --- smuggled words


@pytest.mark.parametrize("role", ["user", "tool"])
@pytest.mark.parametrize("word", WORDS)
def test_control_words_of_others_are_made_harmless(role: str, word: str) -> None:
    text = f"what does {word} mean, and thinkpad{word}s?"
    _, body = sent({"messages": [{"role": role, "content": text}]})
    got = body["messages"][0]["content"]
    assert word not in got
    assert got.replace("\u2060", "") == text, "it reads as before"


def test_system_and_assistant_keep_their_words() -> None:
    messages = [
        {"role": "system", "content": "/no_think"},
        {"role": "assistant", "content": "<think>x</think>y"},
        {"role": "user", "content": "plain"},
    ]
    assert sent({"messages": messages})[1]["messages"] == messages


@st.composite
def cut_words(draw: st.DrawFn) -> list[str]:
    """Control words and scraps of them, cut anywhere."""
    scraps = st.sampled_from([*WORDS, "/", "th", "ink", "<", "no_", " "])
    text = "".join(draw(st.lists(scraps, min_size=1, max_size=5)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(cut_words())
def test_no_cut_into_parts_smuggles_a_word(parts: list[str]) -> None:
    """Templates join parts with nothing, a space or a line end between."""
    body = user([{"type": "text", "text": part} for part in parts])
    escape_control_tokens(body, WORDS)
    texts = [part["text"] for part in body["messages"][0]["content"]]
    for between in ("", "\n", " "):
        joined = between.join(texts)
        assert not any(word in joined for word in WORDS)
    assert [text.replace("\u2060", "") for text in texts] == parts


# --- budgets


@dataclass
class Thinker:
    """An engine whose model thinks `natural` words, then says three. It keeps budgets, ignores
    or refuses them, and its first answers may fail."""

    natural: int = 12
    keeps: bool = False
    refuses: bool = False
    dies_second: bool = False
    fails: int = 0
    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        self.bodies.append((scope["path"], body))
        if self.fails:
            self.fails -= 1
            await self.reply(send, 503, {"error": {"message": "starting"}})
            return
        if self.refuses and "thinking_token_budget" in body:
            await self.reply(send, 400, {"error": {"message": "reasoning_config is not configured"}})
            return
        words: list[tuple[str, str]]
        answer = [("content", word) for word in ("the ", "answer ", "is")]
        if scope["path"].endswith("/chat/completions"):
            budget = body.get("thinking_token_budget", self.natural) if self.keeps else self.natural
            words = [("reasoning", f"r{i} ") for i in range(min(budget, self.natural))] + answer
            limit = body.get("max_completion_tokens", body.get("max_tokens", 10**9))
        else:
            if self.dies_second:
                await self.reply(send, 500, {"error": {"message": "dead"}})
                return
            done = body["prompt"].rpartition("</think>")[2]
            words = [word for word in answer if word[1] not in done]
            limit = 10**9 if body["max_tokens"] is None else body["max_tokens"]
        said, finish = words[:limit], "length" if len(words) > limit else "stop"
        thought = sum(kind == "reasoning" for kind, _ in said)
        usage = {
            "prompt_tokens": 10,
            "completion_tokens": len(said),
            "total_tokens": 10 + len(said),
            "completion_tokens_details": {"reasoning_tokens": thought},
        }
        chat = scope["path"].endswith("/chat/completions")
        prompt = {"prompt_text": "PROMPT<think>"} if body.get("return_prompt_text") else {}
        frame = {"id": "one" if chat else "two", "created": 1, "model": "m"}
        if not body.get("stream"):
            text = {kind: "".join(word for k, word in said if k == kind) or None for kind in ("content", "reasoning")}
            choice = {"message": {"role": "assistant", **text}} if chat else {"text": text["content"] or ""}
            choices = [{"index": 0, **choice, "finish_reason": finish}]
            await self.reply(send, 200, {**frame, **prompt, "choices": choices, "usage": usage})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        pieces = [{"delta": {kind: word}} if chat else {"text": word} for kind, word in said]
        end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        events = [{"choices": [{"index": 0, **piece, "finish_reason": None}]} for piece in pieces]
        events.append({"choices": [{"index": 0, **end, "finish_reason": finish}]})
        events[0] |= prompt
        events.append({"choices": [], "usage": usage})
        for event in events:
            await send({"type": "http.response.body", "body": sse({**frame, **event}), "more_body": True})
        await send({"type": "http.response.body", "body": DONE, "more_body": False})

    async def reply(self, send: Any, status: int, value: Any) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(value).encode()})


def ask(engine: Thinker, body: dict[str, Any], **reasoning: Any) -> Result:
    app = GatewayMiddleware(engine, Settings.model_validate({"model": {"id": "qwen3-8b"}, "reasoning": reasoning}))
    return asyncio.run(call(app, body={**user(), **body}))


@pytest.mark.parametrize(
    ("engine", "holder"),
    [
        (Thinker(keeps=True), "engine"),
        (Thinker(keeps=False), "two_call"),
        (Thinker(refuses=True), "two_call"),
        (Thinker(keeps=True, natural=3), "two_call"),
    ],
)
def test_an_engine_is_believed_only_when_it_counts_so(engine: Thinker, holder: str) -> None:
    app = GatewayMiddleware(engine, Settings())

    async def go() -> None:
        for _ in range(2):
            await call(app, body={**user(), "reasoning": {"budget": 5}})

    asyncio.run(go())
    assert app.control.budgets.holder == holder
    assert sum("thinking_token_budget" in body for _, body in engine.bodies) == (3 if holder == "engine" else 1)


def test_the_engine_is_asked_at_the_start_where_it_counts_reasoning() -> None:
    for model, asked in (("demo", True), ("falcon-h1-0.5b-instruct", False)):
        engine = Thinker(keeps=True)
        app = GatewayMiddleware(engine, Settings.model_validate({"model": {"id": model}}))

        async def start(app: GatewayMiddleware = app) -> None:
            app.control.watch(app)
            await asyncio.wait_for(asyncio.gather(*app.control._tasks), 5)

        asyncio.run(start())
        assert app.control.budgets.holder == ("engine" if asked else None)
        assert bool(engine.bodies) is asked


def test_an_engine_that_fails_under_the_probe_is_asked_again() -> None:
    engine = Thinker(keeps=True, fails=1)
    app = GatewayMiddleware(engine, Settings())

    async def go() -> list[str | None]:
        seen = []
        for _ in range(2):
            await call(app, body={**user(), "reasoning": {"budget": 5}})
            seen.append(app.control.budgets.holder)
        return seen

    assert asyncio.run(go()) == [None, "engine"]


@pytest.mark.parametrize("stream", [True, False])
def test_two_calls_hold_the_budget_and_look_like_one(stream: bool) -> None:
    engine = Thinker()
    body = {"reasoning": {"budget": 5}, "stream": stream, "stream_options": {"include_usage": True}, "temperature": 0.5}
    result = ask(
        engine, body if stream else {k: v for k, v in body.items() if k != "stream_options"}, budget="two_call"
    )
    (_, first), (path, second) = engine.bodies
    assert first["max_completion_tokens"] == 5
    assert path == "/v1/completions"
    assert second["prompt"] == "PROMPT<think>r0 r1 r2 r3 r4 \n</think>\n\n"
    assert second["temperature"] == 0.5
    if stream:
        assert result.done
        assert (result.text("reasoning"), result.text()) == ("r0 r1 r2 r3 r4 ", "the answer is")
        finishes = [c["finish_reason"] for p in result.payloads if p != "[DONE]" for c in p["choices"]]
        assert finishes == [None] * (len(finishes) - 1) + ["stop"]
        assert {p["id"] for p in result.payloads if p != "[DONE]"} == {"one"}
        usage = result.payloads[-2]["usage"]
    else:
        message = result.json()["choices"][0]
        assert (message["message"]["content"], message["finish_reason"]) == ("the answer is", "stop")
        usage = result.json()["usage"]
    assert (usage["completion_tokens"], usage["total_tokens"]) == (8, 18)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 5
    assert b"PROMPT" not in result.body


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_that_thinks_less_needs_one_call(stream: bool) -> None:
    engine = Thinker(natural=2)
    result = ask(engine, {"reasoning": {"budget": 50}, "stream": stream}, budget="two_call")
    assert len(engine.bodies) == 1
    if stream:
        assert (result.text(), result.done) == ("the answer is", True)
        assert b"usage" not in result.body, "nobody asked for it"
    else:
        assert result.json()["choices"][0]["message"]["content"] == "the answer is"


def test_an_answer_that_the_budget_cut_goes_on_where_it_was() -> None:
    engine = Thinker(natural=4)
    result = ask(engine, {"reasoning": {"budget": 5}, "stream": True}, budget="two_call")
    assert result.text() == "the answer is"
    assert engine.bodies[1][1]["prompt"].endswith("</think>\n\nthe ")


def test_the_limit_on_output_counts_both_calls() -> None:
    engine = Thinker()
    result = ask(engine, {"reasoning": {"budget": 5}, "stream": True, "max_tokens": 7}, budget="two_call")
    assert engine.bodies[1][1]["max_tokens"] == 2
    assert result.text() == "the answer "
    engine = Thinker()
    ask(engine, {"reasoning": {"budget": 50}, "max_tokens": 7}, budget="two_call")
    assert [body.get("max_completion_tokens") for _, body in engine.bodies] == [7], "no budget left for a second call"


@pytest.mark.parametrize("stream", [True, False])
def test_a_second_call_that_fails_does_not_look_like_an_end(stream: bool) -> None:
    result = ask(Thinker(dies_second=True), {"reasoning": {"budget": 5}, "stream": stream}, budget="two_call")
    assert not result.done
    error = result.payloads[-1]["error"] if stream else result.error
    assert error["code"] == "engine_unavailable"


def test_what_two_calls_cannot_do_is_said() -> None:
    for extra in ({"tools": [{"type": "function"}]}, {"n": 2}, {"logprobs": True}):
        result = ask(Thinker(), {"reasoning": {"budget": 5}, **extra}, budget="two_call")
        assert result.error["code"] == "reasoning_budget_unsupported"
    assert ask(Thinker(), {"reasoning": {"budget": 5}}, budget="off").error["code"] == "reasoning_budget_unsupported"


def test_an_effort_is_a_budget() -> None:
    engine = Thinker(keeps=True)
    ask(engine, {"reasoning": {"effort": "low"}}, budget="engine", efforts={"low": 3})
    assert engine.bodies[0][1]["thinking_token_budget"] == 3
