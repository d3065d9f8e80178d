"""Numbers and switches of a request, read as the engine will read them.

vLLM validates a body with pydantic in its lax mode: ``"100"``, ``1e2`` and ``true`` are valid numbers there. The
gateway writes the value that the engine would read into the body, so that no type passes a bound.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from hybridserve.gateway.errors import APIError

_INTEGER = TypeAdapter(int)
_SWITCH = TypeAdapter(bool)
_INTEGERS = (
    "max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "n", "best_of", "top_logprobs",
    "prompt_logprobs", "thinking_token_budget", "priority",
)  # fmt: skip
_SWITCHES = (
    "stream", "echo", "return_token_ids", "return_prompt_text", "include_reasoning", "background", "store",
    "enable_response_messages",
)  # fmt: skip


def coerce_body(body: dict[str, Any]) -> bool:
    """Replace numbers and switches in other types; whether the body has changed.

    Raises:
        APIError: 400, a value that the engine would refuse.
    """
    changed = False
    for names, adapter, what in ((_INTEGERS, _INTEGER, "an integer"), (_SWITCHES, _SWITCH, "true or false")):
        for name in names:
            value = body.get(name)
            if value is None or type(value) is (int if adapter is _INTEGER else bool):
                continue
            try:
                body[name] = adapter.validate_python(value)
            except ValidationError:
                raise APIError(400, "invalid_value", f"{name} is not {what}.", param=name) from None
            changed = True
    return changed
