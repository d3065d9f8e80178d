"""The request field `reasoning`, or `thinking` in Anthropic's API, and the switch of the model's chat template."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hybridserve.catalog.models import ServingFacts
from hybridserve.gateway.errors import APIError
from hybridserve.guards.special_tokens import escape, token_pattern
from hybridserve.settings.reasoning import ReasoningSection

_OFF_EFFORTS = ("none",)
_SWITCH = re.compile("/think|/no_think")
_SYSTEM_ROLES = ("system", "developer")


def resolve_switch(section: ReasoningSection, facts: ServingFacts | None) -> ReasoningSection:
    """The section with `switch: auto` resolved from the model's card."""
    if section.switch != "auto":
        return section
    return section.model_copy(update={"switch": (facts and facts.reasoning_switch) or "template"})


@dataclass(frozen=True, slots=True)
class ReasoningOptions:
    """Reasoning on or off; `budget` is the largest number of reasoning tokens."""

    on: bool
    budget: int | None = None


def take_reasoning_options(body: dict[str, Any], settings: ReasoningSection) -> ReasoningOptions | None:
    """Remove the field `reasoning` from a chat request: on, off, {"budget": N} or {"effort": NAME}.

    Raises:
        APIError: 400, any other value.
    """
    value = body.pop("reasoning", None)
    if value is None:
        default = None if settings.default is None else ReasoningOptions(settings.default == "on")
        return _system_message_options(body) or default
    if isinstance(value, bool):
        return ReasoningOptions(value)
    if value in ("on", "off"):
        return ReasoningOptions(value == "on")
    if isinstance(value, dict) and len(value) == 1:
        budget, effort = value.get("budget"), value.get("effort")
        if isinstance(budget, int) and not isinstance(budget, bool) and budget >= 0:
            return ReasoningOptions(budget > 0, budget or None)
        if isinstance(effort, str):
            if effort in _OFF_EFFORTS:
                return ReasoningOptions(False)
            if effort in settings.efforts:
                return ReasoningOptions(True, settings.efforts[effort])
    names = ", ".join((*_OFF_EFFORTS, *settings.efforts))
    raise APIError(
        400,
        "invalid_reasoning",
        f'reasoning must be "on", "off", {{"budget": TOKENS}} or {{"effort": NAME}}, where NAME is one of {names}.',
        param="reasoning",
    )


def take_thinking_options(body: dict[str, Any], settings: ReasoningSection) -> ReasoningOptions | None:
    """Remove Anthropic's field `thinking`. vLLM has no such field; the budget in it is not enforced.

    Raises:
        APIError: 400, its type is none of enabled, adaptive, disabled.
    """
    value = body.pop("thinking", None)
    kind = value.get("type") if isinstance(value, dict) else None
    if value is not None and kind not in ("enabled", "adaptive", "disabled"):
        message = "thinking.type must be enabled, adaptive or disabled."
        raise APIError(400, "invalid_reasoning", message, param="thinking")
    if settings.switch == "none":
        return None  # agents send this field to every model
    if kind == "adaptive":
        value = None
    return take_reasoning_options(body, settings) if value is None else ReasoningOptions(kind == "enabled")


def _system_message_options(body: dict[str, Any]) -> ReasoningOptions | None:
    """The last /think or /no_think in the operator's own system messages.

    The template acts on these words itself, but vLLM's reasoning parser reads only the template argument. Without it,
    an answer generated with reasoning off is returned as reasoning, with no content (vLLM 0.29).
    """
    kwargs, messages = body.get("chat_template_kwargs"), body.get("messages")
    if (isinstance(kwargs, dict) and "enable_thinking" in kwargs) or not isinstance(messages, list):
        return None
    texts = [body.get("system")]
    texts += [m.get("content") for m in messages if isinstance(m, dict) and m.get("role") in _SYSTEM_ROLES]
    switches = [switch for text in texts if isinstance(text, str) for switch in _SWITCH.findall(text)]
    return ReasoningOptions(switches[-1] == "/think") if switches else None


def apply_switch(body: dict[str, Any], options: ReasoningOptions, settings: ReasoningSection) -> None:
    """Turn reasoning on or off in the form that the model's chat template understands.

    Raises:
        APIError: 400, the model has no switch.
    """
    if settings.switch == "none":
        message = "Reasoning cannot be switched on or off for this model."
        raise APIError(400, "reasoning_unsupported", message, param="reasoning")
    # vLLM's reasoning parser reads this argument even where the template acts on words.
    kwargs = body.get("chat_template_kwargs")
    body["chat_template_kwargs"] = {**(kwargs if isinstance(kwargs, dict) else {}), "enable_thinking": options.on}
    messages = body.get("messages")
    if settings.switch == "template" or not isinstance(messages, list):
        return
    # The template checks for /think first and the last message wins: no other switch may remain.
    for message in messages:
        if isinstance(message, dict) and message.get("role") in _SYSTEM_ROLES:
            message["content"] = _without_switches(message.get("content"))
    switch = "/think" if options.on else "/no_think"
    first = messages[0] if messages else None
    if "system" in body:  # Anthropic's API
        system = _without_switches(body["system"])
        last = {"type": "text", "text": f"\n{switch}"}
        body["system"] = [*system, last] if isinstance(system, list) else f"{system or ''}\n{switch}"
    elif isinstance(first, dict) and first.get("role") == "system" and isinstance(first.get("content"), str):
        first["content"] = f"{first['content']}\n{switch}"
    else:
        messages.insert(0, {"role": "system", "content": switch})


def _without_switches(content: Any) -> Any:
    pattern = token_pattern(("/think", "/no_think"), forms=False)
    if isinstance(content, str):
        return escape(content, pattern)
    if not isinstance(content, list):
        return content
    return [
        {**part, "text": escape(part["text"], pattern)}
        if isinstance(part, dict) and isinstance(part.get("text"), str)
        else part
        for part in content
    ]
