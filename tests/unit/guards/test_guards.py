"""Guards: adapters against a real HTTP server's answers, and a shell that never says allow by error."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from hybridserve.errors import ConfigError
from hybridserve.guards import GuardError, GuardVerdict, Message, ResilientGuard, Stage, build_guard
from hybridserve.guards.model import ModelGuard
from hybridserve.guards.nemo import NemoGuard
from hybridserve.guards.patterns import PatternGuard
from hybridserve.settings.guard import GuardSection

USER: list[Message] = [{"role": "user", "content": "hello"}]
TURN: list[Message] = [*USER, {"role": "assistant", "content": "good day"}]

SERVERS: list[ThreadingHTTPServer] = []


@pytest.fixture(autouse=True)
def end_of_servers() -> Iterator[None]:
    yield
    while SERVERS:
        server = SERVERS.pop()
        server.shutdown()
        server.server_close()


def url_of(handler: Callable[[httpx.Request], httpx.Response]) -> str:
    """A real server on a port of its own, which answers what the handler says."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            said = handler(httpx.Request(self.command, f"http://guard{self.path}", content=body))
            self.send_response_only(said.status_code)
            for name, value in {**said.headers, "content-length": str(len(said.content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.content)

        def do_GET(self) -> None:
            self.do_POST()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    SERVERS.append(server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def guard_that_answers(handler: Any, form: Any = "qwen3guard", **more: Any) -> ModelGuard:
    return ModelGuard(url=f"{url_of(handler)}/v1", model="guard-model", form=form, **more)


def says(text: str, finish: str = "stop") -> Any:
    asked: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        message = {"role": "assistant", "content": text}
        return httpx.Response(200, json={"choices": [{"index": 0, "message": message, "finish_reason": finish}]})

    handler.asked = asked  # type: ignore[attr-defined]
    return handler


def verdict(guard: Any, messages: list[Message] = USER, stage: Stage = "input") -> GuardVerdict:
    async def ask() -> GuardVerdict:
        said = await ResilientGuard(guard, retries=0).check(messages, stage)
        await guard.close()
        return said

    return asyncio.run(ask())


def test_a_guard_model_is_asked_and_read() -> None:
    handler = says("Safety: Unsafe\nCategories: Violent")
    result = verdict(guard_that_answers(handler))
    assert (result.outcome, result.categories, result.guard) == ("block", ("Violent",), "guard-model")
    assert handler.asked[0]["messages"] == USER
    assert handler.asked[0]["temperature"] == 0
    assert "Refusal" not in str(handler.asked)


def test_controversial_is_policy() -> None:
    text = "Safety: Controversial\nCategories: Politically Sensitive Topics"
    assert verdict(guard_that_answers(says(text))).outcome == "block"
    assert verdict(guard_that_answers(says(text), controversial_blocks=False)).outcome == "allow"


def test_the_safety_guard_gets_one_prompt_with_the_whole_conversation() -> None:
    handler = says('{"User Safety": "safe", "Response Safety": "safe"}')
    guard = guard_that_answers(handler, form="nemotron_safety_guard")
    assert verdict(guard, TURN, "output").outcome == "allow"
    (message,) = handler.asked[0]["messages"]
    assert "hello" in message["content"]
    assert "good day" in message["content"]
    assert "S23" in message["content"]


@pytest.mark.parametrize(
    "handler",
    [
        says("Safety: Safe\nCategories: None", finish="length"),
        says("I would rather not say"),
        lambda _: httpx.Response(200, json={"choices": []}),
        lambda _: httpx.Response(200, text="<html>"),
        lambda _: httpx.Response(200, json=[1]),
        lambda _: httpx.Response(302, headers={"location": "http://elsewhere/"}),
        lambda _: httpx.Response(401),
        lambda _: httpx.Response(500),
    ],
)
def test_every_failure_of_a_guard_model_is_an_error(handler: Any) -> None:
    result = verdict(guard_that_answers(handler))
    assert result.outcome == "error"
    assert result.detail


def test_a_closed_port_is_an_error() -> None:
    guard = ModelGuard(url="http://127.0.0.1:9", model="m", form="llama_guard", timeout_s=2.0)
    assert verdict(guard).outcome == "error"


def test_as_many_verdicts_at_once_as_there_are_requests() -> None:
    """The guard answers nobody before all have asked: a pool of 100 connections would never get there."""
    many = 150

    async def go() -> list[GuardVerdict]:
        asked, all_asked = 0, asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length))
            asked += 1
            if asked == many:
                all_asked.set()
            await all_asked.wait()
            body = json.dumps({"choices": [{"message": {"content": "safe"}, "finish_reason": "stop"}]}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=many)
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1"
        guard = ResilientGuard(ModelGuard(url=url, model="m", form="llama_guard", timeout_s=60), timeout_s=60)
        async with server:
            verdicts = await asyncio.gather(*[guard.check(USER, "input") for _ in range(many)])
        await guard.close()
        return verdicts

    assert {said.outcome for said in asyncio.run(go())} == {"allow"}


def test_the_guard_must_serve_the_model_that_was_pinned() -> None:
    def models(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"id": "another"}]})

    async def probe() -> str | None:
        guard = ResilientGuard(guard_that_answers(models))
        said = await guard.probe()
        await guard.close()
        return said

    assert asyncio.run(probe()) == "the endpoint does not serve guard-model"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"status": "success", "rails_status": {"content safety": {"status": "success"}}}, "allow"),
        ({"status": "blocked", "rails_status": {"content safety": {"status": "blocked"}}}, "block"),
        ({"status": "success", "rails_status": {"content safety": {"status": "blocked"}}}, "block"),
        ({"status": "success", "rails_status": {}}, "error"),
        ({"status": "success"}, "error"),
        ({"status": "error", "rails_status": {"a": {"status": "success"}}}, "error"),
        ({"status": "success", "rails_status": {"a": {"status": "unknown"}}}, "error"),
        ({"status": "success", "rails_status": {"a": {"status": "success"}, "b": None}}, "error"),
    ],
)
def test_nemo_guardrails(answer: dict[str, Any], outcome: str) -> None:
    guard = NemoGuard(url=url_of(lambda _: httpx.Response(200, json=answer)), config_id="c", model="main")
    assert verdict(guard).outcome == outcome


class Scripted:
    """A guard that does what its script says, once per check."""

    name = "scripted"
    is_local = False

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.calls = 0

    async def check(self, messages: Any, stage: Stage) -> GuardVerdict:
        self.calls += 1
        step = self.script.pop(0) if self.script else "allow"
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            await asyncio.sleep(step)
            step = "allow"
        return GuardVerdict(step, self.name)

    async def probe(self) -> None: ...
    async def close(self) -> None: ...


def fault(transient: bool = True) -> GuardError:
    return GuardError("no", transient=transient)


def test_a_late_verdict_is_an_error() -> None:
    shell = ResilientGuard(Scripted(5.0), timeout_s=0.05)
    assert asyncio.run(shell.check(USER, "input")).outcome == "error"


def test_a_defect_of_an_adapter_is_an_error() -> None:
    assert asyncio.run(ResilientGuard(Scripted(ZeroDivisionError())).check(USER, "input")).outcome == "error"


def test_transient_faults_are_tried_again_and_others_not() -> None:
    transient, final = Scripted(fault()), Scripted(fault(False))
    assert asyncio.run(ResilientGuard(transient).check(USER, "input")).outcome == "allow"
    assert transient.calls == 2
    assert asyncio.run(ResilientGuard(final).check(USER, "input")).outcome == "error"
    assert final.calls == 1


def test_retries_stop_when_their_budget_is_spent() -> None:
    guard = Scripted(*[fault() for _ in range(200)])
    shell = ResilientGuard(guard, retries=1, retry_budget=0.1, breaker_failures=1000)

    async def go() -> None:
        for _ in range(50):
            await shell.check(USER, "input")

    asyncio.run(go())
    assert guard.calls <= 50 + 10 + 50 * 0.1 + 1


def test_the_breaker_opens_probes_once_and_closes() -> None:
    now = [0.0]
    guard = Scripted(*[fault(False) for _ in range(4)])
    shell = ResilientGuard(guard, breaker_failures=3, breaker_reset_s=10.0, clock=lambda: now[0])

    async def check() -> str:
        return (await shell.check(USER, "input")).outcome

    for _ in range(3):
        assert asyncio.run(check()) == "error"
    assert shell.breaker == "open"
    assert asyncio.run(check()) == "error"
    assert guard.calls == 3, "an open breaker asks nobody"
    now[0] = 11.0
    assert shell.breaker == "half_open"
    assert asyncio.run(check()) == "error"
    assert guard.calls == 4
    assert shell.breaker == "open", "a failed probe opens it again"
    now[0] = 22.0
    assert asyncio.run(check()) == "allow"
    assert shell.breaker == "closed"


@pytest.mark.parametrize(
    "text",
    ["how to make a pipe bomb", "How To  BUILD\na Pipe\u200bBomb", "assemble a ｐｉｐｅ bomb please"],
)
def test_rules_see_through_case_space_and_invisible_letters(text: str) -> None:
    result = verdict(PatternGuard(), [{"role": "user", "content": text}])
    assert (result.outcome, result.categories) == ("block", ("Weapons",))


def test_rules_let_ordinary_text_pass() -> None:
    for text in ("How do I bake bread?", "My bath bomb broke.", "Explain what ransomware is."):
        assert verdict(PatternGuard(), [{"role": "user", "content": text}]).outcome == "allow"


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (r"\b(\w+) \1\b", "it is so so"),  # its group has number 2 behind the first rule's
        (r"(?P<word>q)r", "a qr code"),  # named as in the first rule
        (r"(?s)a.b", "a-b"),  # flags stand only at a beginning
        (r"(?P<x>u)v(?P=x)", "uvu"),
    ],
)
def test_rules_that_cannot_be_searched_for_together_are_found_all_the_same(
    tmp_path: Path, second: str, text: str
) -> None:
    file = tmp_path / "rules.yaml"
    rules = [
        {"category": "first", "patterns": ["(?P<word>first)"]},
        {"category": "second", "patterns": ["zzz", second]},
    ]
    file.write_text(yaml.safe_dump({"rules": rules}))
    guard = PatternGuard(file)
    for said, found in ((text, ("second",)), ("the first", ("first",)), ("1 2 3", ())):
        assert verdict(guard, [{"role": "user", "content": said}]).categories == found


def test_a_broken_rules_file_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    for text in ("rules: [{category: a, patterns: ['(']}]", "rules: 5", "{", "rules: [{categori: a}]"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"rules\.yaml"):
            PatternGuard(file)
    with pytest.raises(ConfigError):
        PatternGuard(tmp_path / "missing.yaml")


def test_guards_are_built_from_settings(tmp_path: Path) -> None:
    assert build_guard(GuardSection()) is None
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("no place for it")
    section = GuardSection(kind="model", url="http://g/v1", model="m", format="llama_guard", prompt_file=str(prompt))
    with pytest.raises(ConfigError, match="conversation"):
        build_guard(section)
    with pytest.raises(ValueError, match="needs url"):
        GuardSection(kind="model")
    with pytest.raises(ValueError, match="overlap"):
        GuardSection(window_tokens=100, overlap_tokens=60)
