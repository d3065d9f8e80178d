"""vLLM's own Messages API without an engine, behind the gateway: its router, its conversions, the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx2
import pytest

from support.gateway_client import WordGuard, gateway

pytestmark = pytest.mark.engine

QUESTION: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
CALL = {
    "index": 0,
    "id": "call_0",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
}


def app(reasoning: str, content: str, **choice: Any) -> Any:
    """vLLM's FastAPI app, whose chat completions answer with this text and a tool call."""
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.api_server import build_app
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse, ChatCompletionStreamResponse
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Serving(AnthropicServingMessages):
        def __init__(self) -> None:
            self.stop_reason_map = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
            self._merge_inline_system = True

        async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
            labels = {"id": "chatcmpl-1", "model": request.model}
            end = {"finish_reason": "tool_calls", **choice}
            if not request.stream:
                message = {"role": "assistant", "content": content, "reasoning": reasoning, "tool_calls": [CALL]}
                whole = [{"index": 0, "message": message, **end}]
                return ChatCompletionResponse(**labels, choices=whole, usage=USAGE)
            deltas = [{"role": "assistant", "content": ""}, *({"reasoning": word} for word in reasoning.split(" "))]
            deltas += [*({"content": word} for word in content.split(" ")), {"tool_calls": [CALL]}]
            chunks = [{**labels, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
            chunks.append({**labels, "choices": [{"index": 0, "delta": {}, **end}]})
            chunks.append({**labels, "choices": [], "usage": USAGE})

            async def events() -> AsyncIterator[str]:
                for chunk in chunks:
                    yield f"data: {ChatCompletionStreamResponse(**chunk).model_dump_json(exclude_unset=True)}\n\n"
                yield "data: [DONE]\n\n"

            return events()

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", "demo"])
    server = build_app(args, ("generate",))
    server.state.anthropic_serving_messages = Serving()
    server.state.server_load_metrics = 0
    server.state.enable_server_load_tracking = False
    server.state.serving_tokenization = SimpleNamespace()
    return server


def ask(app: Any, *, stream: bool) -> Any:
    async def run() -> Any:
        transport = httpx2.ASGITransport(gateway(app, WordGuard()))
        async with httpx2.AsyncClient(transport=transport) as http:
            client = anthropic.AsyncAnthropic(api_key="x", base_url="http://t", http_client=http, max_retries=0)
            if not stream:
                return await client.messages.create(**QUESTION)
            async with client.messages.stream(**QUESTION) as events:
                return await events.get_final_message()

    return asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_message_arrives_complete(stream: bool) -> None:
    message = ask(app("let me think", "It is sunny."), stream=stream)
    thinking, text, call = message.content
    assert thinking.thinking.replace(" ", "") == "letmethink"
    assert text.text.replace(" ", "") == "Itissunny."
    assert (call.name, call.input, message.stop_reason) == ("weather", {"city": "Rome"}, "tool_use")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 5)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reasoning", "content", "choice"),
    [
        ("so BAN NED", "fine", {}),
        ("so", "BANNED", {}),
        ("so", "fine BAN", {"finish_reason": "stop", "stop_reason": "NED"}),
    ],
)
def test_blocked_text_does_not_arrive(reasoning: str, content: str, choice: dict[str, Any], stream: bool) -> None:
    if not stream:
        reasoning = reasoning.replace("BAN NED", "BANNED")
    with pytest.raises(anthropic.APIStatusError, match="response was blocked"):
        ask(app(reasoning, content, **choice), stream=stream)


def test_error_of_the_engine_has_anthropics_form() -> None:
    server = app("", "")
    server.state.anthropic_serving_messages = SimpleNamespace()
    with pytest.raises(anthropic.InternalServerError) as failed:
        ask(server, stream=False)
    assert failed.value.body["error"]["type"] == "api_error"  # type: ignore[index]
