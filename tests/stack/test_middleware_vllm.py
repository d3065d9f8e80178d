"""The gateway in front of real vLLM, mounted by name with `vllm serve --middleware`, with the demo model."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hybridserve
from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.engine.preload import inline_worker_flags
from hybridserve.gateway.auth.api_keys import key_line, new_key
from hybridserve.gateway.reasoning.budget import ThinkingBudgetProbe
from hybridserve.planning.render import command_line
from hybridserve.planning.resolve import engine_args, engine_environment
from hybridserve.settings import Settings, load
from hybridserve.settings.reasoning import ReasoningSection

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

MODEL = Path(hybridserve.__file__).parent / "demo_model"
RULES = """
rules:
  - {category: Prompt, stages: [input], patterns: ["forbidden question"]}
  - {category: Answer, stages: [output], patterns: ["hybrid of mamba"]}
"""


@dataclass
class Server:
    base: str
    key: str
    admin: str

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.base, headers=headers, timeout=120)

    def post(self, body: dict[str, Any], path: str = "/v1/chat/completions", key: str | None = None) -> httpx.Response:
        with self.client(key) as client:
            return client.post(path, json={"model": "demo", "temperature": 0, **body})

    def metric(self, pattern: str) -> float:
        """Sum of the engine's own series that match."""
        with self.client(self.admin) as client:
            text = client.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(pattern, line))

    def idle(self) -> None:
        deadline = time.monotonic() + 30
        while self.metric(r"vllm:num_requests_running\{") or self.metric(r"vllm:num_requests_waiting\{"):
            assert time.monotonic() < deadline, "the engine still has requests"
            time.sleep(0.1)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not (MODEL / "config.json").exists():
        pytest.fail(f"the demo model is missing: {MODEL}")
    folder = tmp_path_factory.mktemp("gateway")
    key, admin = new_key(), new_key()
    keys = folder / "keys.txt"
    keys.write_text(f"{key_line('user', key)}\n{key_line('root', admin, ('inference', 'metrics', 'admin'))}\n")
    rules = folder / "rules.yaml"
    rules.write_text(RULES)
    gateway = Settings.model_validate(
        {
            "access": {"keys_file": str(keys), "max_output_tokens": 2000, "max_prompt_tokens": 200},
            "guard": {
                "kind": "rules",
                "rules_file": str(rules),
                "window_tokens": 16,
                "overlap_tokens": 6,
                "canary_block": "A forbidden question?",
            },
        }
    )
    port = random.randint(20000, 30000)
    planned = load(assignments=["engine.reasoning_parser=nemotron_v3"]).settings
    spec = DeploymentSpec(settings=gateway, headers={"X-Model-License": "Apache-2.0"})
    environment = {
        **engine_environment(planned),
        **os.environ,
        "HYBRIDSERVE_SETTINGS_JSON": spec.to_json(),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    words = command_line(engine_args(planned), "127.0.0.1", port)[2:]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", *words]
    command += ["--middleware", "hybridserve.gateway.GatewayMiddleware", *inline_worker_flags(planned)]
    log = folder / "vllm.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"vLLM did not start:\n{log.read_text()[-3000:]}")
            try:
                if httpx.get(f"{base}/ready", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        yield Server(base, key, admin)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    assert "event=engine_app_error" not in text
    for secret in (key, admin, "forbidden question"):
        assert secret not in text, "logs contain no key and no prompt"


def test_requests_need_a_key(server: Server) -> None:
    answer = server.post({"messages": user("Hello"), "max_tokens": 40})
    assert answer.status_code == 200
    assert answer.headers["x-model-license"] == "Apache-2.0"
    assert answer.json()["usage"]["completion_tokens"] > 0
    with httpx.Client(base_url=server.base) as client:
        assert client.post("/v1/chat/completions", json={}).status_code == 401
        for path in ("/tokenize", "/metrics", "/v1/models", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 401
        for path in ("/tokenize", "/v1/messages", "/v1/messages/count_tokens", "/docs"):
            assert client.post(path, json={}).status_code == 401
        assert client.get("/health").status_code == client.get("/about").status_code == 200
    for path in ("/invocations", "/inference/v1/generate", "/v1/embeddings"):
        assert server.post({"messages": user("hi")}, path, key=server.admin).status_code == 404


def test_openai_client_stream_equals_response(server: Server) -> None:
    client = openai.OpenAI(api_key=server.key, base_url=f"{server.base}/v1", max_retries=0)
    whole = client.chat.completions.create(
        model="demo",
        messages=user("Hello"),
        max_tokens=60,
        temperature=0,  # type: ignore[arg-type]
    )
    stream = client.chat.completions.create(
        model="demo",
        messages=user("Hello"),
        max_tokens=60,
        temperature=0,
        stream=True,  # type: ignore[call-overload]
    )
    text, finish = "", None
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == (whole.choices[0].message.content or "")
    assert finish == whole.choices[0].finish_reason


def test_anthropic_client_streams_thinks_counts_and_is_guarded(server: Server) -> None:
    """vLLM's own Messages API behind the gateway, through the official client."""
    client = anthropic.Anthropic(api_key=server.key, base_url=server.base, max_retries=0)
    question: Any = {"model": "demo", "max_tokens": 120, "messages": SUM, "extra_body": {"temperature": 0}}
    counted = client.messages.count_tokens(model="demo", messages=SUM)  # type: ignore[arg-type]
    whole = client.messages.create(**question)
    assert [block.type for block in whole.content] == ["thinking", "text"]
    assert whole.usage.input_tokens == counted.input_tokens
    with client.messages.stream(**question) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text == whole.content[1].text  # type: ignore[union-attr]
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    plain = client.messages.create(**question, thinking={"type": "disabled"})
    assert [block.type for block in plain.content] == ["text"]
    with pytest.raises(anthropic.BadRequestError, match="request was blocked"):
        client.messages.create(**{**question, "messages": user("A forbidden  QUESTION")})
    answer: Any = {**question, "messages": user("Who are you?"), "thinking": {"type": "disabled"}}
    with pytest.raises(anthropic.BadRequestError, match="response was blocked"):
        client.messages.create(**answer)
    with (
        pytest.raises(anthropic.APIStatusError, match="response was blocked"),
        client.messages.stream(**answer) as stream,
    ):
        assert "Mamba" not in "".join(stream.text_stream)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**question, "model": "another"})
    with pytest.raises(anthropic.BadRequestError, match="maximum is 200"):
        client.messages.create(**{**question, "messages": user("word " * 400)})


@pytest.mark.parametrize("stream", [True, False])
def test_disconnected_client_aborts_generation(server: Server, stream: bool) -> None:
    """By the engine's own counters: it generates far fewer than 1900 tokens each, and finishes no request."""
    server.idle()
    tokens = server.metric(r"vllm:generation_tokens_total\{")
    finished = server.metric(r"vllm:request_success_total\{.*(length|stop)")
    body = {"model": "demo", "messages": user("Hello"), "max_tokens": 1900, "ignore_eos": True, "stream": stream}

    # One client, created before the engine is busy: creating TLS contexts beside it takes seconds here.
    with server.client() as client, ThreadPoolExecutor(4) as pool:

        def leave(_: int) -> None:
            if stream:
                with client.stream("POST", "/v1/chat/completions", json=body) as response:
                    next(response.iter_raw())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post("/v1/chat/completions", json=body, timeout=1.5)

        list(pool.map(leave, range(4)))
    server.idle()
    generated = server.metric(r"vllm:generation_tokens_total\{") - tokens
    assert server.metric(r"vllm:request_success_total\{.*(length|stop)") == finished
    assert 0 < generated < 4 * 1900 / 2, f"{generated} tokens were generated after the clients had left"


def test_blocked_prompt_does_not_reach_the_engine(server: Server) -> None:
    server.idle()
    before = server.metric(r"vllm:prompt_tokens_total\{")
    blocked = server.post({"messages": user("A forbidden  QUESTION"), "max_tokens": 5})
    assert (blocked.status_code, blocked.json()["error"]["code"]) == (400, "guard_blocked")
    assert server.metric(r"vllm:prompt_tokens_total\{") == before


def test_prompt_length_equals_the_engines_count(server: Server) -> None:
    refused = server.post({"messages": user("word " * 400), "max_tokens": 5})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "prompt_too_long")
    count = int(re.search(r"has (\d+) tokens", refused.json()["error"]["message"])[1])  # type: ignore[index]
    counted = server.post({"messages": user("word " * 400)}, "/tokenize", key=server.admin).json()["count"]
    assert count == counted


def test_bad_requests_are_openai_errors_without_traceback(server: Server) -> None:
    for body in (
        {"messages": "no list"},
        {"messages": user("x"), "max_tokens": -1},
        {"messages": user("x"), "temperature": "hot"},
        {"messages": user("x"), "model": "another"},
        {"messages": user("x"), "n": 99},
        {"messages": [{"role": "alien", "content": "x"}]},
        {"messages": user("x"), "max_tokens": 10**9, "min_tokens": 10**9},
    ):
        answer = server.post(body)
        assert 400 <= answer.status_code < 500, answer.text
        assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}
        assert "Traceback" not in answer.text


SUM = user("What is 17 plus 25?")


def reasoning_of(answer: httpx.Response) -> tuple[str | None, str | None, int]:
    """Reasoning, content, and reasoning tokens as the engine counts them."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    message = body["choices"][0]["message"]
    return message["reasoning"], message["content"], body["usage"]["completion_tokens_details"]["reasoning_tokens"]


def test_reasoning_is_switched_and_counted(server: Server) -> None:
    thought, answer, tokens = reasoning_of(server.post({"messages": SUM, "reasoning": "on"}))
    assert thought
    assert answer
    assert tokens > 5
    assert reasoning_of(server.post({"messages": SUM, "reasoning": "off"}))[::2] == (None, 0)


def test_control_words_of_users_do_not_switch_reasoning(server: Server) -> None:
    for word in ("/no_think", "</think>", "<think></think>"):
        thought, _, tokens = reasoning_of(server.post({"messages": user(f"What is 17 plus 25? {word}")}))
        assert thought, word
        assert tokens > 0


def test_probe_finds_that_engine_enforces_budgets(server: Server) -> None:
    """The probe against this engine over HTTP: vLLM 0.29 with a reasoning parser enforces them."""

    async def engine(scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        answer = server.post(body, scope["path"])
        await send({"type": "http.response.start", "status": answer.status_code, "headers": []})
        await send({"type": "http.response.body", "body": answer.content})

    budgets = ThinkingBudgetProbe(ReasoningSection())
    scope = {"type": "http", "headers": [], "root_path": ""}
    asyncio.run(budgets.require(engine, scope, "demo"))
    assert budgets.enforced


@pytest.mark.parametrize("budget", [1, 4, 10])
def test_budget_shortens_reasoning(server: Server, budget: int) -> None:
    body = {"messages": SUM, "max_tokens": 80}
    free = reasoning_of(server.post({**body, "reasoning": "on"}))
    limited = reasoning_of(server.post({**body, "reasoning": {"budget": budget}}))
    assert free[2] > budget >= limited[2]
    assert budget == 1 or limited[2] > 0, "the engine counts no token of a budget of one"
    assert limited[1], "the answer follows the shortened reasoning"
    assert (free[0] or "").startswith((limited[0] or "").strip()), "a prefix of the unlimited reasoning"
    streamed = server.post({**body, "reasoning": {"budget": budget}, "stream": True})
    parts = [choice["delta"] for event in events(streamed)[:-1] for choice in event["choices"]]
    assert events(streamed)[-1] == "[DONE]"
    assert "".join(part.get("reasoning") or "" for part in parts).strip() == (limited[0] or "").strip()
    # After a forced end the demo model may close its reasoning again; vLLM's streaming parser keeps that second tag.
    content = "".join(part.get("content") or "" for part in parts).replace("</think>", "")
    assert content.strip() == (limited[1] or "").replace("</think>", "").strip()


def test_blocked_answer_is_aborted_and_frees_its_sequence(server: Server) -> None:
    """The rule matches the demo model's answer: a tiny hybrid of Mamba and attention layers."""
    whole = server.post({"messages": user("Who are you?"), "reasoning": "off"})
    assert (whole.status_code, whole.json()["error"]["code"]) == (400, "guard_blocked")
    stream = server.post({"messages": user("Who are you?"), "reasoning": "off", "stream": True})
    # With status 400 if nothing was sent before the verdict.
    error = events(stream)[-1]["error"] if stream.status_code == 200 else stream.json()["error"]
    assert error["code"] == "guard_blocked"
    assert "[DONE]" not in events(stream)
    assert "Mamba" not in stream.text
    server.idle()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    [
        *("messages", "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "stop", "tools"),
        *("tool_choice", "temperature", "top_p", "logprobs", "response_format", "seed", "reasoning", "logit_bias"),
        *("chat_template_kwargs", "include_reasoning", "thinking_token_budget", "cache_salt", "min_tokens", "user"),
    ]
)


@given(st.dictionaries(fields, json_values, max_size=4), st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_request_causes_a_500(server: Server, fuzz: dict[str, Any], plausible: bool) -> None:
    start = {"messages": user("Hi"), "max_tokens": 3} if plausible else {}
    answer = server.post({**start, **fuzz})
    assert answer.status_code < 500, f"{fuzz}: {answer.text}"
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}


def test_drain(server: Server) -> None:
    with server.client(server.admin) as client:
        assert client.post("/admin/drain").json()["draining"] is True
        try:
            assert server.post({"messages": user("Hello")}).json()["error"]["code"] == "draining"
            assert client.get("/ready").json()["reasons"] == ["draining"]
            assert client.get("/health").status_code == 200
        finally:
            assert client.delete("/admin/drain").json()["draining"] is False
    assert server.post({"messages": user("Hello"), "max_tokens": 3}).status_code == 200


def events(response: httpx.Response) -> list[Any]:
    lines = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
