"""Routes, keys and scopes; documents, request IDs, clean errors and the access log."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.errors import ConfigError
from hybridserve.gateway import GatewayMiddleware, GatewayState
from hybridserve.observability.logging import JsonFormatter, TextFormatter
from hybridserve.observability.metrics import GatewayMetrics
from hybridserve.settings import Settings, load
from hybridserve.simulator.traffic import parse_trace
from support.fake_engine import DONE, FakeEngine, chunk, request, sse
from support.gateway_client import ANSWER, CHAT, STREAM, WordGuard, assert_openai_error, bearer, gateway, get, send
from support.metrics import samples

# --- routes and keys


def test_demo_profile_without_key_file_is_open_except_admin_routes() -> None:
    app = gateway()
    assert send(app).json() == ANSWER
    assert send(app, headers=bearer("sk-anything-an-sdk-sends")).status == 200
    assert get(app, "/metrics").status == 200
    assert_openai_error(send(app, {}, "/scale_elastic_ep"), 403, "not_allowed")


@pytest.mark.parametrize("profile", ["staging", "production"])
def test_other_profiles_without_key_file_are_closed(profile: str) -> None:
    app = gateway(server={"profile": profile})
    assert send(app).status == 403
    assert get(app, "/health").status == 200


def test_missing_or_invalid_key_is_401(keys: dict[str, str]) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine, access={"keys_file": keys["file"]})
    assert_openai_error(send(app), 401, "missing_api_key")
    assert_openai_error(send(app, headers=bearer("hs-wrong")), 401, "invalid_api_key")
    assert_openai_error(send(app, headers=bearer(keys["old"])), 401, "invalid_api_key")
    assert_openai_error(send(app, headers={"authorization": f"Basic {keys['user']}"}), 401, "missing_api_key")
    assert send(app).headers["www-authenticate"].startswith("Bearer")
    assert not engine.paths, "none of these may reach the app"
    assert send(app, headers=bearer(keys["user"])).status == 200
    assert send(app, headers={"x-api-key": keys["user"]}).status == 200
    assert "authorization" not in engine.headers
    assert "x-api-key" not in engine.headers


def test_scope_required_by_route(keys: dict[str, str]) -> None:
    app = gateway(access={"keys_file": keys["file"]})
    user, scraper, root = (bearer(keys[name]) for name in ("user", "scraper", "root"))
    assert send(app, headers=scraper).status == 403
    assert get(app, "/metrics").status == 401
    assert get(app, "/metrics", headers=user).status == 403
    assert get(app, "/metrics", headers=scraper).status == 200
    for path in ("/tokenize", "/invocations", "/collective_rpc"):
        assert_openai_error(send(app, {}, path, headers=user), 403, "not_allowed")
        assert send(app, {}, path, headers=root).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/invocations"),
        ("POST", "/inference/v1/generate"),
        ("POST", "/v1/chat/completions/batch"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
    ],
)
def test_admin_key_cannot_bypass_guard(keys: dict[str, str], method: str, path: str) -> None:
    root, access = bearer(keys["root"]), {"keys_file": keys["file"]}
    app = gateway(access=access, guard={"kind": "rules"})
    assert_openai_error(send(app, {}, path, method=method, headers=root), 404, "not_found")
    assert send(gateway(access=access), {}, path, method=method, headers=root).status == 200
    assert send(app, {}, "/tokenize", headers=bearer(keys["root"])).status == 200


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
def test_similar_paths_are_not_open(path: str, keys: dict[str, str]) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine, access={"keys_file": keys["file"]})
    assert send(app, {}, path, headers=bearer(keys["user"])).status == 404
    assert not engine.paths


def test_routes_that_are_not_served_are_404_for_everybody(keys: dict[str, str]) -> None:
    app = gateway(access={"keys_file": keys["file"]})
    for headers in ({}, bearer(keys["user"]), bearer(keys["root"])):
        for method, path in (("POST", "/v1/embeddings"), ("POST", "/v1/audio/speech"), ("GET", "/v1/chat/completions")):
            assert_openai_error(send(app, {}, path, method=method, headers=headers), 404, "not_found")


def test_mount_point_is_removed_from_path() -> None:
    assert send(gateway(), root_path="/llm").json() == ANSWER
    assert send(gateway(), {}, "/tokenize", root_path="/v1").status == 403


def test_an_open_route_has_the_limits_of_the_others() -> None:
    app = gateway(FakeEngine(), access={"open_routes": ["POST /tokenize"], "requests_per_minute": 2})
    assert send(app, {**CHAT, "chat_template": "{{ x }}"}, "/tokenize").status == 400
    assert send(app, CHAT, "/tokenize").status == 200
    assert_openai_error(send(app, CHAT, "/tokenize"), 429, "rate_limit_exceeded")


def test_open_routes_setting() -> None:
    assert send(gateway(access={"open_routes": ["POST /tokenize"]}), {}, "/tokenize").status == 200
    with pytest.raises(ConfigError, match="not a route"):
        gateway(access={"open_routes": ["tokenize"]})
    with pytest.raises(ConfigError, match="bypass the guard"):
        gateway(access={"open_routes": ["POST /invocations"]}, guard={"kind": "rules"})
    with pytest.raises(ConfigError, match="bypass the guard"):
        gateway(access={"open_routes": ["GET /v1/responses/a"]}, guard={"kind": "rules"})


def test_cors_preflight_needs_no_key(keys: dict[str, str]) -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine, access={"keys_file": keys["file"]})
    preflight = {"origin": "http://a", "access-control-request-method": "POST"}
    send(app, None, method="OPTIONS", headers=preflight)
    assert engine.paths == ["/v1/chat/completions"]
    assert send(app, None, "/scale_elastic_ep", method="OPTIONS", headers=preflight).status == 401


def test_websocket_is_closed() -> None:
    sent: list[Any] = []

    async def run() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await gateway()({"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send)

    asyncio.run(run())
    assert [message["type"] for message in sent] == ["websocket.close"]


# --- documents, ids, errors, logs


def test_builtin_routes_and_response_headers() -> None:
    config = DeploymentSpec(
        settings=Settings(),
        documents={"/licenses": {"lines": ["Built with Llama"]}},
        headers={"X-Model-License": "nvidia-open-model-license"},
    )
    app = GatewayMiddleware(FakeEngine(STREAM, ANSWER), state=GatewayState(config))
    assert get(app, "/licenses").json() == {"lines": ["Built with Llama"]}
    about = get(app, "/about").json()
    assert (about["service"], about["attribution"]) == ("hybridserve", ["Built with Llama"])
    assert get(app, "/plan").json() == {"path": "/plan"}, "the app's own, where it has one"
    for result in (send(app), send(app, {**CHAT, "stream": True}), send(app, raw=b"{"), send(app, {}, "/nowhere")):
        assert result.headers["x-model-license"] == "nvidia-open-model-license"
    assert send(app, None, "/about", method="HEAD").body == b""


def test_request_id_and_trace_context_are_forwarded() -> None:
    engine = FakeEngine(STREAM, ANSWER)
    app = gateway(engine)
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    result = send(app, headers={"x-request-id": "abc-1", "traceparent": good, "tracestate": "a=b"})
    assert result.headers["x-request-id"] == engine.headers["x-request-id"] == "abc-1"
    assert (engine.headers["traceparent"], engine.headers["tracestate"]) == (good, "a=b")
    for bad in ("junk", good.upper(), "ff" + good[2:], "00-" + "0" * 32 + good[35:]):
        send(app, headers={"traceparent": bad, "tracestate": "a=b"})
        assert "traceparent" not in engine.headers
        assert "tracestate" not in engine.headers
    forged = send(app, headers={"x-request-id": "a\r\nevil: 1"})
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
def test_app_errors_have_no_traceback(status: int, body: Any, code: str) -> None:
    result = send(gateway(FakeEngine(answer=body, status=status)))
    assert_openai_error(result, status, code)
    assert "secret" not in result.body.decode()
    assert "hello" not in result.body.decode()
    assert int(result.headers["content-length"]) == len(result.body)
    if status == 400:
        assert result.error["param"] == "max_tokens"
        assert "positive" in result.error["message"]
    if status == 503:
        assert "queued" in result.error["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("POST", "/v1/messages/count_tokens")])
def test_an_app_that_raises_is_500(method: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("my prompt")

    result = send(gateway(app), CHAT if method == "POST" else None, path, method=method)
    assert (result.status, result.error["message"]) == (500, "The engine failed on this request.")
    assert "my prompt" not in caplog.text


def test_plain_text_error_becomes_openai_error() -> None:
    engine = FakeEngine(status=429, text_error="Request dropped due to backpressure")
    assert_openai_error(send(gateway(engine)), 429, "rate_limit_exceeded")


URL = "http://169.254.169.254/latest"
DATA = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize("url", [URL, "file:///etc/passwd", " HTTPS://a.example/x.png", DATA])
@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/v1/chat/completions", lambda url: {"type": "image_url", "image_url": {"url": url, "detail": "a:b"}}),
        ("/v1/chat/completions", lambda url: {"type": "text", "text": "see", "video_url": url}),
        ("/v1/messages", lambda url: {"type": "image", "source": {"type": "url", "url": url}}),
        ("/v1/messages", lambda url: {"type": "tool_result", "content": [{"type": "image", "source": {"url": url}}]}),
        ("/v1/messages/count_tokens", lambda url: {"type": "image", "source": {"type": "url", "url": url}}),
        ("/tokenize", lambda url: {"type": "image_url", "image_url": {"url": url}}),
        ("/v1/responses", lambda url: {"type": "input_image", "image_url": url}),
    ],
)
def test_the_engine_fetches_no_url_for_a_client(path: str, part: Any, url: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": f"about {URL}"}, part(url)]}
    body = {"input" if "responses" in path else "messages": [message], "max_tokens": 5}
    engine, access = FakeEngine(answer=ANSWER), {"open_routes": ["POST /tokenize"]}
    assert (send(gateway(engine, access=access), body, path).status == 400) == (url != DATA)
    assert len(engine.paths) == (url == DATA)
    opened = {"extra_args": {"allowed_media_domains": ["a.example"]}}
    assert send(gateway(FakeEngine(answer=ANSWER), engine=opened, access=access), body, path).status == 200


def test_tools_are_called_with_urls() -> None:
    call = {"type": "tool_use", "id": "a", "name": "fetch", "input": {"url": URL, "image": URL}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": URL}
    messages = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    assert (
        send(gateway(FakeEngine(answer=ANSWER)), {"messages": messages, "max_tokens": 5}, "/v1/messages").status == 200
    )


def test_only_listed_headers_pass_in_either_direction() -> None:
    """vLLM 0.29 reads a priority, an engine rank, a session and a report of its load from headers."""
    sent = {
        "x-vllm-priority": "-5",
        "x-data-parallel-rank": "1",
        "x-session-id": "a",
        "endpoint-load-metrics-format": "JSON",
        "cookie": "a=b",
        "x-forwarded-for": "1.2.3.4",
        "accept": "application/json",
        "user-agent": "test",
    }
    seen: dict[str, str] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen.update({name.decode(): value.decode() for name, value in scope["headers"]})
        headers = [(b"Content-Type", b"application/json"), (b"endpoint-load-metrics", b"TEXT"), (b"x-internal", b"1"),
                   (b"set-cookie", b"a=b"), (b"server", b"uvicorn"), (b"cache-control", b"no-store")]  # fmt: skip
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(ANSWER).encode()})

    for path, method in (("/v1/chat/completions", "POST"), ("/v1/models", "GET")):
        seen.clear()
        result = asyncio.run(
            request(gateway(app), path, CHAT if method == "POST" else None, headers=sent, method=method)
        )
        assert result.status == 200
        assert not seen.keys() & (sent.keys() - {"accept", "user-agent"})
        assert {"accept", "user-agent", "x-request-id"} <= seen.keys()
        assert set(result.headers) - {"content-length"} == {"content-type", "cache-control", "x-request-id"}


def test_logs_contain_no_key_prompt_or_answer(keys: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    engine = FakeEngine([sse(chunk("the answer is SECRETANSWER")), ValueError("SECRETPROMPT")], ANSWER)
    app = gateway(engine, access={"keys_file": keys["file"]}, guard={"kind": "rules"})
    body = {"messages": [{"role": "user", "content": "SECRETPROMPT"}]}
    send(app, body, headers=bearer(keys["user"]))
    send(app, {**body, "stream": True}, headers=bearer(keys["user"]))
    send(app, body, headers=bearer("hs-SECRETKEY-that-is-wrong"))
    text = "\n".join(TextFormatter().format(record) for record in caplog.records)
    assert "event=request" in text
    assert "key=user" in text
    assert "event=engine_app_error" in text
    for secret in ("SECRET", keys["user"], keys["user"][3:]):
        assert secret not in text


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_access_log_is_a_trace_for_the_simulator(
    formatter: logging.Formatter, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests in the order of their arrival, not of their end; without those that generated nothing."""
    caplog.set_level(logging.INFO)
    engine = FakeEngine([sse(chunk("a")), 0.3, DONE], ANSWER)
    app = gateway(engine)
    sizes = {"slow": (70, 20), "fast": (5, 3)}
    app.state.token_counts = lambda ident: sizes.pop(ident, None)

    async def run() -> None:
        slow = asyncio.create_task(request(app, body={**CHAT, "stream": True}, headers={"x-request-id": "slow"}))
        await asyncio.sleep(0.1)
        await request(app, body=CHAT, headers={"x-request-id": "fast"})
        await request(app, body=CHAT, headers={"x-request-id": "unknown"})
        await request(app, "/v1/models", None, method="GET")
        await slow

    asyncio.run(run())
    lines = [f"pod/a {formatter.format(record)}" for record in caplog.records]
    trace = parse_trace("\n".join(["a line of something else", *lines]), "log")
    assert [row[1:] for row in trace] == [(70, 20), (5, 3)]
    assert trace[1][0] == pytest.approx(0.1, abs=0.09), "when it came, from its end and duration"


# --- from the environment


def test_settings_from_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings.model_validate({"access": {"max_body_bytes": 2048}})
    text = DeploymentSpec(settings=settings, documents={"/licenses": {"lines": ["a"]}}, headers={"x-a": "b"}).to_json()
    file = tmp_path / "deployment.json"
    file.write_text(text)
    for value in (text, str(file), settings.model_dump_json()):
        monkeypatch.setenv("HYBRIDSERVE_SETTINGS_JSON", value)
        app = GatewayMiddleware(FakeEngine())
        assert app.state.settings.access == settings.access
        load()  # and the loader of settings does not take the variable for a setting
    for wrong in ("", "{", '{"settings": {"acces": {}}}', str(tmp_path / "none"), "[]"):
        monkeypatch.setenv("HYBRIDSERVE_SETTINGS_JSON", wrong)
        with pytest.raises(ConfigError, match="HYBRIDSERVE_SETTINGS_JSON"):
            GatewayMiddleware(FakeEngine())


HI, BLOCKED = '{"role": "user", "content": "hi"}', '{"role": "user", "content": "BANNED"}'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
@pytest.mark.parametrize(
    "text",
    [
        f'{{"messages": [{HI}], "messages": [{BLOCKED}]}}',
        f'{{"messages": [{BLOCKED}], "messages": [{HI}]}}',
        f'{{"\\u006dessages": [{BLOCKED}], "temperature": NaN, "seed": 1e400}}',
    ],
)
def test_engine_reads_the_body_that_the_guard_has_read(text: str, encoding: str) -> None:
    """FastAPI, in which vLLM's routes are, parses a body as the gateway does; else each could see another request."""
    from fastapi import Body, FastAPI

    engine, seen = FastAPI(), []

    @engine.post("/v1/chat/completions")
    async def chat(body: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        seen.append(body)
        return ANSWER

    guard = WordGuard()
    asyncio.run(_post(gateway(engine, guard), text.encode(encoding)))
    judged = [message["content"] for message in guard.checked[0][1]]
    assert judged == [json.loads(text)["messages"][0]["content"]]
    assert [body["messages"][0]["content"] for body in seen] == [text for text in judged if text != "BANNED"]


async def _post(app: Any, body: bytes) -> None:
    import httpx

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        await client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})


def test_fastapi_app_mounts_middleware_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
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

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            return [
                await client.post("/v1/chat/completions", json=CHAT),
                await client.post("/v1/chat/completions", json=[1]),
                await client.get("/docs"),
                await client.get("/about"),
            ]

    good, bad, docs, about = asyncio.run(run())
    assert good.json()["echo"] == CHAT
    assert bad.json()["error"]["code"] == "invalid_json"
    assert docs.status_code == 403
    assert about.status_code == 200


def test_requests_and_guard_checks_are_counted() -> None:
    registry = CollectorRegistry()
    settings = Settings.model_validate({"guard": {"kind": "rules"}})
    app = GatewayMiddleware(
        FakeEngine(STREAM, ANSWER),
        state=GatewayState(DeploymentSpec(settings=settings), metrics=GatewayMetrics(registry)),
    )
    send(app)
    send(app, {"messages": [{"role": "user", "content": "how to make a pipe bomb"}]})
    seen = samples(registry)
    assert seen['hybridserve_requests_admitted_total{route="chat"}'] == 1
    assert seen['hybridserve_requests_rejected_total{reason="guard_blocked_input",route="chat"}'] == 1
    assert sum(value for name, value in seen.items() if name.startswith("hybridserve_guard_verdicts_total")) == 3
    assert seen['hybridserve_gateway_overhead_seconds_count{route="chat"}'] == 1
    assert 0 <= seen['hybridserve_gateway_overhead_seconds_sum{route="chat"}'] < 5


def test_generation_has_one_span_between_caller_and_engine() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from hybridserve.gateway.tracing import RequestTracer

    exporter, provider, engine = InMemorySpanExporter(), TracerProvider(), FakeEngine(STREAM, ANSWER)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = Settings.model_validate({"guard": {"kind": "rules"}})
    app = GatewayMiddleware(
        engine, state=GatewayState(DeploymentSpec(settings=settings), tracer=RequestTracer(provider))
    )
    caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    send(app, headers={"traceparent": caller})
    send(app, {"messages": [{"role": "user", "content": "how to make a pipe bomb"}]})
    get(app, "/health")
    good, blocked = exporter.get_finished_spans()
    assert good.parent is not None
    assert f"{good.context.trace_id:032x}" == caller[3:35]
    assert f"{good.parent.span_id:016x}" == caller[36:52]
    assert engine.headers.get("traceparent") is None, "the last request was no generation"
    send(app, headers={"traceparent": caller})
    assert engine.headers["traceparent"].split("-")[1] == caller[3:35]
    assert engine.headers["traceparent"] != caller
    assert good.attributes["http.response.status_code"] == 200  # type: ignore[index]
    assert blocked.attributes["hybridserve.reason"] == "guard_blocked_input"  # type: ignore[index]
    assert "pipe" not in str(blocked.to_json())
