"""Who may pass: routes, keys and scopes; and what everybody gets: documents, ids, clean errors, a line in the log."""

from __future__ import annotations

import asyncio
import logging
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from hybridserve.errors import ConfigError
from hybridserve.gateway import GatewayConfig, GatewayMiddleware, GatewayState
from hybridserve.gateway.auth.api_keys import APIKeyStore, key_line, new_key, parse_keys
from hybridserve.observability.logging import TextFormatter
from hybridserve.observability.metrics import GatewayMetrics
from hybridserve.settings import Settings, load
from support.fake_engine import SmallEngine, chunk, sse
from support.gateway_client import ANSWER, CHAT, STREAM, ask, assert_openai_error, bearer, door
from support.metrics import samples

# --- routes and keys


def test_without_a_key_file_the_demo_is_open_but_admin_is_not() -> None:
    app = door()
    assert ask(app).json() == ANSWER
    assert ask(app, headers=bearer("sk-anything-an-sdk-sends")).status == 200
    assert ask(app, None, "/metrics", method="GET").status == 200
    assert_openai_error(ask(app, {}, "/scale_elastic_ep"), 403, "not_allowed")


@pytest.mark.parametrize("profile", ["staging", "production"])
def test_outside_the_demo_no_key_file_means_no_entry(profile: str) -> None:
    app = door(server={"profile": profile})
    assert ask(app).status == 403
    assert ask(app, None, "/health", method="GET").status == 200


def test_a_key_is_needed_and_must_be_right(keys: dict[str, str]) -> None:
    engine = SmallEngine(STREAM, ANSWER)
    app = door(engine, access={"keys_file": keys["file"]})
    assert_openai_error(ask(app), 401, "missing_api_key")
    assert_openai_error(ask(app, headers=bearer("hs-wrong")), 401, "invalid_api_key")
    assert_openai_error(ask(app, headers=bearer(keys["old"])), 401, "invalid_api_key")
    assert_openai_error(ask(app, headers={"authorization": f"Basic {keys['user']}"}), 401, "missing_api_key")
    assert ask(app).headers["www-authenticate"].startswith("Bearer")
    assert not engine.paths, "nothing of this may reach the app"
    assert ask(app, headers=bearer(keys["user"])).status == 200
    assert ask(app, headers={"x-api-key": keys["user"]}).status == 200
    assert "authorization" not in engine.headers
    assert "x-api-key" not in engine.headers


def test_scopes(keys: dict[str, str]) -> None:
    app = door(access={"keys_file": keys["file"]})
    user, scraper, root = (bearer(keys[name]) for name in ("user", "scraper", "root"))
    assert ask(app, headers=scraper).status == 403
    assert ask(app, None, "/metrics", method="GET").status == 401
    assert ask(app, None, "/metrics", method="GET", headers=user).status == 403
    assert ask(app, None, "/metrics", method="GET", headers=scraper).status == 200
    for path in ("/tokenize", "/invocations", "/collective_rpc"):
        assert_openai_error(ask(app, {}, path, headers=user), 403, "not_allowed")
        assert ask(app, {}, path, headers=root).status == 200


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/invocations", "/inference/v1/generate", "/v1/chat/completions/batch"]
)
def test_with_a_guard_not_even_an_admin_goes_around_it(keys: dict[str, str], path: str) -> None:
    app = door(access={"keys_file": keys["file"]}, guard={"kind": "rules"})
    assert ask(app, {}, path, headers=bearer(keys["root"])).status == 403
    assert ask(app, {}, "/tokenize", headers=bearer(keys["root"])).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../admin/drain",
        "/V1/chat/completions",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/metrics/",
    ],
)
def test_paths_that_only_look_open_are_not(path: str, keys: dict[str, str]) -> None:
    app = door(access={"keys_file": keys["file"]})
    assert ask(app, {}, path, headers=bearer(keys["user"])).status == 403


def test_a_mount_point_is_taken_off_the_path() -> None:
    assert ask(door(), root_path="/llm").json() == ANSWER
    assert ask(door(), {}, "/tokenize", root_path="/v1").status == 403


def test_open_routes_and_their_mistakes() -> None:
    assert ask(door(access={"open_routes": ["POST /tokenize"]}), {}, "/tokenize").status == 200
    with pytest.raises(ConfigError, match="not a route"):
        door(access={"open_routes": ["tokenize"]})
    with pytest.raises(ConfigError, match="bypass the guard"):
        door(access={"open_routes": ["POST /v1/messages"]}, guard={"kind": "rules"})


def test_a_browsers_preflight_needs_no_key(keys: dict[str, str]) -> None:
    engine = SmallEngine(STREAM, ANSWER)
    app = door(engine, access={"keys_file": keys["file"]})
    preflight = {"origin": "http://a", "access-control-request-method": "POST"}
    ask(app, None, method="OPTIONS", headers=preflight)
    assert engine.paths == ["/v1/chat/completions"]
    assert ask(app, None, "/scale_elastic_ep", method="OPTIONS", headers=preflight).status == 401


def test_websockets_are_not_open() -> None:
    sent: list[Any] = []

    async def go() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await door()({"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send)

    asyncio.run(go())
    assert [message["type"] for message in sent] == ["websocket.close"]


# --- the key file


def test_keys_rotate_without_a_restart(tmp_path: Path) -> None:
    file, now = tmp_path / "keys.txt", [0.0]
    first, second = new_key(), new_key()
    file.write_text(key_line("a", first))
    ring = APIKeyStore(file, clock=lambda: now[0])
    assert ring.find(first.encode()) is not None
    fresh = tmp_path / "fresh"
    fresh.write_text(key_line("a", second))
    fresh.replace(file)
    assert ring.find(first.encode()) is not None, "looked at once a second at most"
    now[0] = 2.0
    assert ring.find(first.encode()) is None
    assert ring.find(second.encode()) is not None
    file.write_text("rubbish\n")
    now[0] = 4.0
    assert ring.find(second.encode()) is not None, "a broken file leaves the old keys in force"
    file.unlink()
    now[0] = 6.0
    assert ring.find(second.encode()) is not None


def test_a_key_is_valid_through_its_last_day(tmp_path: Path) -> None:
    file, key, today = tmp_path / "keys.txt", new_key(), [date(2027, 1, 31)]
    file.write_text(key_line("a", key, expires=date(2027, 1, 31)))
    ring = APIKeyStore(file, today=lambda: today[0])
    assert ring.find(key.encode()) is not None
    today[0] = date(2027, 2, 1)
    assert ring.find(key.encode()) is None


def test_the_whole_hash_is_compared(tmp_path: Path) -> None:
    file, key = tmp_path / "keys.txt", new_key()
    line = key_line("a", key)
    end = line.index(" scopes=")
    other = "0" if line[end - 1] != "0" else "1"
    file.write_text(line[: end - 1] + other + line[end:])
    assert APIKeyStore(file).find(key.encode()) is None


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice secret-in-plain-text",
        "alice sha256:abc",
        f"alice sha256:{'0' * 64} scopes=everything",
        f"alice sha256:{'0' * 64} rpm=many",
        f"alice sha256:{'0' * 64} rpm=0",
        f"alice sha256:{'0' * 64} colour=red",
        f"alice sha256:{'0' * 64}\nalice sha256:{'1' * 64}",
        f"al/ice sha256:{'0' * 64}",
    ],
)
def test_a_malformed_key_file_is_a_clear_error(line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line"):
        parse_keys(line, "keys.txt")
    file = tmp_path / "keys.txt"
    file.write_text(line)
    with pytest.raises(ConfigError):
        door(access={"keys_file": str(file)})


def test_a_missing_key_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        door(access={"keys_file": str(tmp_path / "none")})


# --- documents, ids, errors, logs


def test_own_routes_and_headers() -> None:
    config = GatewayConfig(
        Settings(), documents={"/licenses": {"model": "x"}}, headers={"X-Model-License": "nvidia-open-model-license"}
    )
    app = GatewayMiddleware(SmallEngine(STREAM, ANSWER), state=GatewayState(config))
    assert ask(app, None, "/licenses", method="GET").json() == {"model": "x"}
    assert ask(app, None, "/about", method="GET").json()["service"] == "hybridserve"
    assert ask(app, None, "/plan", method="GET").json() == {"path": "/plan"}, "the app's own, where it has one"
    for result in (ask(app), ask(app, {**CHAT, "stream": True}), ask(app, raw=b"{"), ask(app, {}, "/nowhere")):
        assert result.headers["x-model-license"] == "nvidia-open-model-license"
    assert ask(app, None, "/about", method="HEAD").body == b""


def test_request_ids_and_trace_context_pass() -> None:
    engine = SmallEngine(STREAM, ANSWER)
    app = door(engine)
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    result = ask(app, headers={"x-request-id": "abc-1", "traceparent": good, "tracestate": "a=b"})
    assert result.headers["x-request-id"] == engine.headers["x-request-id"] == "abc-1"
    assert (engine.headers["traceparent"], engine.headers["tracestate"]) == (good, "a=b")
    for bad in ("junk", good.upper(), "ff" + good[2:], "00-" + "0" * 32 + good[35:]):
        ask(app, headers={"traceparent": bad, "tracestate": "a=b"})
        assert "traceparent" not in engine.headers
        assert "tracestate" not in engine.headers
    forged = ask(app, headers={"x-request-id": "a\r\nevil: 1"})
    assert forged.headers["x-request-id"] == engine.headers["x-request-id"] != "a\r\nevil: 1"


TRACE = 'Traceback (most recent call last):\n  File "/secret/path.py", line 1, in f\nRuntimeError: prompt was: hello'


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (500, {"error": {"message": TRACE, "type": "InternalServerError", "code": 500}}, "error"),
        (500, {"object": "error", "message": TRACE}, "error"),
        (500, {"error": {"message": "cannot handle the text hello"}}, "error"),
        (503, {"error": {"message": "too many queued requests", "code": 503}}, "engine_unavailable"),
        (404, {"detail": "Not Found"}, "not_found"),
        (
            400,
            {"error": {"message": "max_tokens must be positive", "param": "max_tokens", "code": 400}},
            "invalid_request",
        ),
    ],
)
def test_errors_of_the_app_are_cleaned(status: int, body: Any, code: str) -> None:
    result = ask(door(SmallEngine(answer=body, status=status)))
    assert_openai_error(result, status, code)
    assert "secret" not in result.body.decode()
    assert "hello" not in result.body.decode()
    assert int(result.headers["content-length"]) == len(result.body)
    if status == 400:
        assert result.error["param"] == "max_tokens"
        assert "positive" in result.error["message"]
    if status == 503:
        assert "queued" in result.error["message"]


def test_backpressure_in_plain_text_becomes_an_openai_error() -> None:
    engine = SmallEngine(status=429, text_error="Request dropped due to backpressure")
    assert_openai_error(ask(door(engine)), 429, "rate_limit_exceeded")


def test_logs_hold_no_key_no_prompt_no_answer(keys: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    engine = SmallEngine([sse(chunk("the answer is SECRETANSWER")), ValueError("SECRETPROMPT")], ANSWER)
    app = door(engine, access={"keys_file": keys["file"]}, guard={"kind": "rules"})
    body = {"messages": [{"role": "user", "content": "SECRETPROMPT"}]}
    ask(app, body, headers=bearer(keys["user"]))
    ask(app, {**body, "stream": True}, headers=bearer(keys["user"]))
    ask(app, body, headers=bearer("hs-SECRETKEY-that-is-wrong"))
    text = "\n".join(TextFormatter().format(record) for record in caplog.records)
    assert "event=request" in text
    assert "key=user" in text
    assert "event=engine_app_error" in text
    for secret in ("SECRET", keys["user"], keys["user"][3:]):
        assert secret not in text


# --- from the environment


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings.model_validate({"access": {"max_body_bytes": 2048}})
    text = GatewayConfig(settings, documents={"/licenses": ["a"]}, headers={"x-a": "b"}).to_json()
    file = tmp_path / "handover.json"
    file.write_text(text)
    for value in (text, str(file), settings.model_dump_json()):
        monkeypatch.setenv("HYBRIDSERVE_SETTINGS_JSON", value)
        app = GatewayMiddleware(SmallEngine())
        assert app.state.settings.access == settings.access
        load()  # and the loader of settings does not take the variable for a setting
    for wrong in ("", "{", '{"settings": {"acces": {}}}', str(tmp_path / "none"), "[]"):
        monkeypatch.setenv("HYBRIDSERVE_SETTINGS_JSON", wrong)
        with pytest.raises(ConfigError, match="HYBRIDSERVE_SETTINGS_JSON"):
            GatewayMiddleware(SmallEngine())


def test_it_mounts_on_a_real_fastapi_app_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    import httpx
    from fastapi import FastAPI

    monkeypatch.setenv("HYBRIDSERVE_SETTINGS_JSON", Settings().model_dump_json())
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any]) -> dict[str, Any]:
        return {**ANSWER, "echo": body}

    module, _, name = "hybridserve.gateway.GatewayMiddleware".rpartition(".")
    app.add_middleware(getattr(importlib.import_module(module), name))

    async def go() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            return [
                await client.post("/v1/chat/completions", json=CHAT),
                await client.post("/v1/chat/completions", json=[1]),
                await client.get("/docs"),
                await client.get("/about"),
            ]

    good, bad, docs, about = asyncio.run(go())
    assert good.json()["echo"] == CHAT
    assert bad.json()["error"]["code"] == "invalid_json"
    assert docs.status_code == 403
    assert about.status_code == 200


def test_requests_and_guard_checks_are_counted() -> None:
    registry = CollectorRegistry()
    settings = Settings.model_validate({"guard": {"kind": "rules"}})
    app = GatewayMiddleware(
        SmallEngine(STREAM, ANSWER), state=GatewayState(GatewayConfig(settings), metrics=GatewayMetrics(registry))
    )
    ask(app)
    ask(app, {"messages": [{"role": "user", "content": "how to make a pipe bomb"}]})
    seen = samples(registry)
    assert seen['hybridserve_requests_admitted_total{route="chat"}'] == 1
    assert seen['hybridserve_requests_rejected_total{reason="guard_blocked_input",route="chat"}'] == 1
    assert sum(value for name, value in seen.items() if name.startswith("hybridserve_guard_verdicts_total")) == 3
    assert seen['hybridserve_gateway_overhead_seconds_count{route="chat"}'] == 1
    assert 0 <= seen['hybridserve_gateway_overhead_seconds_sum{route="chat"}'] < 5


def test_a_generation_is_one_span_between_the_callers_and_the_engines() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from hybridserve.gateway.tracing import RequestTracer

    exporter, provider, engine = InMemorySpanExporter(), TracerProvider(), SmallEngine(STREAM, ANSWER)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = Settings.model_validate({"guard": {"kind": "rules"}})
    app = GatewayMiddleware(engine, state=GatewayState(GatewayConfig(settings), tracer=RequestTracer(provider)))
    caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    ask(app, headers={"traceparent": caller})
    ask(app, {"messages": [{"role": "user", "content": "how to make a pipe bomb"}]})
    ask(app, None, "/health", method="GET")
    good, blocked = exporter.get_finished_spans()
    assert good.parent is not None
    assert f"{good.context.trace_id:032x}" == caller[3:35]
    assert f"{good.parent.span_id:016x}" == caller[36:52]
    assert engine.headers.get("traceparent") is None, "the last request was no generation"
    ask(app, headers={"traceparent": caller})
    assert engine.headers["traceparent"].split("-")[1] == caller[3:35]
    assert engine.headers["traceparent"] != caller
    assert good.attributes["http.response.status_code"] == 200  # type: ignore[index]
    assert blocked.attributes["hybridserve.reason"] == "guard_blocked_input"  # type: ignore[index]
    assert "pipe" not in str(blocked.to_json())
