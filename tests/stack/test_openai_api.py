"""The OpenAI API, through the official client, against the real stack."""

from __future__ import annotations

import json
import subprocess

import httpx
import openai
import pytest

from support.stack_service import Service

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

QUESTION = [{"role": "user", "content": "What is this?"}]
OFF = {"chat_template_kwargs": {"enable_thinking": False}}
ON = {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.fixture(scope="module")
def client(service: Service) -> openai.OpenAI:
    return service.client()


def ask(client: openai.OpenAI, **kwargs):
    return client.chat.completions.create(
        **{"model": "demo", "messages": QUESTION, "temperature": 0, "extra_body": OFF} | kwargs
    )


def test_commands_to_try_work(service: Service) -> None:
    answers = {
        name: json.loads(subprocess.run(command, shell=True, capture_output=True, check=True, timeout=120).stdout)
        for name, command in service.to_try.items()
    }
    assert next(iter(answers)) == "a chat"
    assert answers["a chat"]["choices"][0]["finish_reason"] == "stop"
    assert answers["a tool call"]["choices"][0]["finish_reason"] == "tool_calls"
    [call] = answers["a tool call"]["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert answers["the plan, and what the engine reports"]["holds"]


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.mark.parametrize("reasoning", [OFF, ON])
def test_tool_is_called_streamed_and_its_result_reported(client: openai.OpenAI, reasoning: dict) -> None:
    asked = {"role": "user", "content": "What is the weather in Oslo?"}
    fields = {"tools": [WEATHER], "extra_body": reasoning}
    message = ask(client, messages=[asked], **fields).choices[0].message
    [call] = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    deltas = [
        delta.function
        for chunk in ask(client, messages=[asked], stream=True, **fields)
        for choice in chunk.choices
        for delta in choice.delta.tool_calls or []
    ]
    assert "".join(delta.name or "" for delta in deltas) == call.function.name
    assert "".join(delta.arguments or "" for delta in deltas) == call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns = [asked, message.model_dump(include={"role", "content", "tool_calls"}), result]
    answer = ask(client, messages=turns, **fields).choices[0]
    assert answer.finish_reason == "stop"
    assert answer.message.content == "The weather in Oslo is sunny."


def test_ordinary_question_calls_no_tool(client: openai.OpenAI) -> None:
    message = ask(client, tools=[WEATHER]).choices[0].message
    assert not message.tool_calls
    assert "hybridserve" in message.content


def test_json_has_the_requested_keys(client: openai.OpenAI) -> None:
    text = "Helena lives in Oslo and is 31 years old. Answer as JSON with the keys name and city."
    wanted = {"name": "Helena", "city": "Oslo"}
    for form in ({}, {"response_format": {"type": "json_object"}}):
        content = (
            ask(client, messages=[{"role": "user", "content": text}], max_tokens=60, **form).choices[0].message.content
        )
        assert json.loads(content) == wanted


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"


def test_chat_answer_is_sensible_and_stops(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert "hybridserve" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream_equals_response_and_ends_with_usage(client: openai.OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 5, "the stream has few chunks"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


def test_reasoning_is_separate_from_content(client: openai.OpenAI) -> None:
    on, off = ask(client, extra_body=ON).choices[0].message, ask(client).choices[0].message
    assert on.reasoning
    assert on.content
    assert "think>" not in on.content
    assert not off.reasoning
    assert "hybridserve" in on.content


def test_system_message_switches_reasoning(client: openai.OpenAI) -> None:
    def message(switch: str):
        messages = [{"role": "system", "content": switch}, *QUESTION]
        return ask(client, messages=messages, extra_body={}).choices[0].message

    assert message("/think").reasoning
    assert not message("/no_think").reasoning


def test_stop_ends_the_answer_before_the_word(client: openai.OpenAI) -> None:
    whole = ask(client).choices[0].message.content
    word = whole.split()[3]
    cut = ask(client, stop=[word]).choices[0]
    assert cut.message.content == whole[: whole.index(word)]
    assert cut.finish_reason == "stop"


def test_max_tokens_ends_with_length(client: openai.OpenAI) -> None:
    answer = ask(client, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_same_seed_repeats_the_sample(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        return ask(client, temperature=2.0, seed=seed, max_tokens=24).choices[0].message.content

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_logprobs_rank_greedy_tokens_first(client: openai.OpenAI) -> None:
    tokens = ask(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(tokens) > 5
    for token in tokens:
        assert token.token == token.top_logprobs[0].token
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3


def test_n_returns_n_choices(client: openai.OpenAI) -> None:
    answer = ask(client, n=3, temperature=2.0, max_tokens=16)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt="What is", max_tokens=5, temperature=0, logprobs=1)
    assert answer.usage.completion_tokens == 5
    assert len(answer.choices[0].logprobs.tokens) == 5


def test_health_and_metrics(service: Service) -> None:
    assert httpx.get(f"{service.url}/health", timeout=30).status_code == 200
    before = service.metric("vllm:generation_tokens_total")
    ask(service.client(), max_tokens=4)
    assert service.metric("vllm:generation_tokens_total") == before + 4


def test_plan_equals_engine_configuration(service: Service) -> None:
    plan = httpx.get(f"{service.url}/plan", timeout=30).json()
    assert plan["line"] == service.cache
    info = next(
        line
        for line in httpx.get(f"{service.url}/metrics", timeout=30).text.splitlines()
        if line.startswith("vllm:cache_config_info")
    )
    assert f'num_gpu_blocks="{plan["engine"]["num_gpu_blocks"]}"' in info
    assert f'block_size="{plan["engine"]["block_size"]}"' in info


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "nobody"),
        ({"max_tokens": -1}, openai.BadRequestError, "max_tokens"),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, openai.BadRequestError, "length"),
        ({"temperature": "hot"}, openai.BadRequestError, "temperature"),
    ],
)
def test_errors_have_openai_body(
    client: openai.OpenAI, change: dict, kind: type[openai.APIStatusError], expected: str
) -> None:
    with pytest.raises(kind) as caught:
        ask(client, **change)
    body = caught.value.body
    assert set(body) >= {"message", "type", "param", "code"}
    assert expected in body["message"]


def test_invalid_json_is_a_400_with_openai_body(service: Service) -> None:
    answer = httpx.post(
        f"{service.url}/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}, timeout=30
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
