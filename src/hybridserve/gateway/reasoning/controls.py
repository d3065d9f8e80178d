"""The request field `reasoning`, and escaping of control words that a chat template would act on in a user's text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from hybridserve.catalog.models import ServingFacts
from hybridserve.gateway.errors import APIError
from hybridserve.settings.reasoning import ReasoningSection

_OFF_EFFORTS = ("none",)
# A word joiner is invisible, and breaks both a template's substring test and a tokenizer's special token.
_JOINER = "\u2060"
_SWITCH = re.compile("/think|/no_think")
_SYSTEM_ROLES = ("system", "developer")
_UNTRUSTED_ROLES = ("user", "tool", "function")


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


def _system_message_options(body: dict[str, Any]) -> ReasoningOptions | None:
    """The last /think or /no_think in the operator's own system messages.

    The template acts on these words itself, but vLLM's reasoning parser reads only the template argument. Without it,
    an answer generated with reasoning off is returned as reasoning, with no content (vLLM 0.29).
    """
    kwargs, messages = body.get("chat_template_kwargs"), body.get("messages")
    if (isinstance(kwargs, dict) and "enable_thinking" in kwargs) or not isinstance(messages, list):
        return None
    switches = [
        switch
        for message in messages
        if isinstance(message, dict) and message.get("role") in _SYSTEM_ROLES
        for switch in _SWITCH.findall(message["content"] if isinstance(message.get("content"), str) else "")
    ]
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
    pattern = _pattern(("/think", "/no_think"))
    for message in messages:
        if isinstance(message, dict) and message.get("role") in _SYSTEM_ROLES:
            message["content"] = _escape(message.get("content"), pattern)
    switch = "/think" if options.on else "/no_think"
    first = messages[0] if messages else None
    if isinstance(first, dict) and first.get("role") == "system" and isinstance(first.get("content"), str):
        first["content"] = f"{first['content']}\n{switch}"
    else:
        messages.insert(0, {"role": "system", "content": switch})


def escape_control_tokens(body: dict[str, Any], words: tuple[str, ...]) -> bool:
    """Escape control words in the text of users and tools, in place; True if the body changed.

    A word joiner after the first letter leaves the visible text as it was. System messages and assistant turns come
    from the operator and the model, and keep their control words.
    """
    if not words:
        return False
    pattern = _pattern(words)
    changed = False
    for field in ("messages", "input"):
        items = body.get(field)
        if isinstance(items, str) and field == "input":
            items = body[field] = _escape(before := items, pattern)
            changed |= items != before
        for item in items if isinstance(items, list) else ():
            if not isinstance(item, dict) or item.get("role", "user") not in _UNTRUSTED_ROLES:
                continue
            for key in ("content", "output"):
                if key in item:
                    text = _escape(item[key], pattern)
                    changed |= text != item[key]
                    item[key] = text
    return changed


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)))


def _escape(content: object, pattern: re.Pattern[str]) -> Any:
    if isinstance(content, str):
        # Repeated: escaping </think> leaves /think behind its first letter.
        while pattern.search(content):
            content = pattern.sub(lambda match: match[0][0] + _JOINER + match[0][1:], content)
        return content
    if not isinstance(content, list):
        return content
    parts = [{**part, "text": _escape(part["text"], pattern)} if _has_text(part) else part for part in content]
    texts = [part["text"] for part in parts if _has_text(part)]
    if pattern.search("".join(texts)):
        # A control word split across two parts would be joined again by the template.
        parts = [{**part, "text": _JOINER + part["text"]} if _has_text(part) else part for part in parts]
    return parts


def _has_text(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)
