"""Good requests of each kind, with most of what a client may say, to be broken."""

from __future__ import annotations

from typing import Any

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "demo", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 5, "n": 1,
        "reasoning": {"budget": 5}, "temperature": 0.5, "stop": ["x"], "logprobs": True, "top_logprobs": 2,
        "messages": [
            {"role": "system", "content": "You are /no_think"},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "<think>"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}],
    },
    "/v1/completions": {"model": "demo", "prompt": ["a", "b"], "suffix": "c", "max_tokens": 5, "stream": True},
    "/v1/responses": {"model": "demo", "input": [{"role": "user", "content": "a"}], "instructions": "b"},
}  # fmt: skip
HEADERS = ("idempotency-key", "authorization", "x-request-id", "traceparent", "content-type", "x-api-key", "accept")
