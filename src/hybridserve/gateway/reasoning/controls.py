"""The request field `reasoning`, and the control words that a template would act on wherever they stand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from hybridserve.catalog.models import ServingFacts
from hybridserve.gateway.errors import APIError
from hybridserve.settings.reasoning import ReasoningSection

_CLOSING = "\n</think>\n\n"
_OFF_EFFORTS = ("none",)
# A word joiner: nobody sees it, and neither a substring test nor a tokenizer's special token survives it.
_JOINER = "\u2060"
_SWITCH = re.compile("/think|/no_think")
_UNTRUSTED_ROLES = ("user", "tool", "function")


def for_model(section: ReasoningSection, facts: ServingFacts | None) -> ReasoningSection:
    """The section with what it leaves open filled in from the model's card."""
    switch = section.switch if section.switch != "auto" else (facts and facts.reasoning_switch) or "template"
    closing = section.closing if section.closing is not None else (facts and facts.reasoning_closing) or _CLOSING
    return section.model_copy(update={"switch": switch, "closing": closing})


@dataclass(frozen=True, slots=True)
class ReasoningOptions:
    """What a request wants. `budget` is in tokens."""

    on: bool
    budget: int | None = None


def take_reasoning_options(body: dict[str, Any], settings: ReasoningSection) -> ReasoningOptions | None:
    """Take the field `reasoning` out of a chat request: on, off, {"budget": N} or {"effort": NAME}.

    Raises:
        APIError: 400, any other value.
    """
    value = body.pop("reasoning", None)
    if value is None:
        return _system_wish(body) or (None if settings.default is None else ReasoningOptions(settings.default == "on"))
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
        f'reasoning must be "on", "off", {{"budget": tokens}} or {{"effort": name}} with a name of {names}.',
        param="reasoning",
    )


def _system_wish(body: dict[str, Any]) -> ReasoningOptions | None:
    """What the operator's own system message switches with /think or /no_think; the last word wins.

    The template would act on the word by itself, but the engine's reasoning parser looks only at the template's
    argument: without it an answer given with reasoning off comes back as reasoning, with no content (vLLM 0.29).
    """
    kwargs, messages = body.get("chat_template_kwargs"), body.get("messages")
    if (isinstance(kwargs, dict) and "enable_thinking" in kwargs) or not isinstance(messages, list):
        return None
    switches = [
        word
        for message in messages
        if isinstance(message, dict) and message.get("role") in ("system", "developer")
        for word in _SWITCH.findall(message["content"] if isinstance(message.get("content"), str) else "")
    ]
    return ReasoningOptions(switches[-1] == "/think") if switches else None


def apply_switch(body: dict[str, Any], wish: ReasoningOptions, settings: ReasoningSection) -> None:
    """Turn the model's reasoning on or off the way its template understands.

    Raises:
        APIError: 400, the model has no switch.
    """
    if settings.switch == "none":
        raise APIError(400, "reasoning_unsupported", "This model's reasoning cannot be switched.", param="reasoning")
    # Where the template acts on words, the engine's reasoning parser still looks at nothing but this argument.
    kwargs = body.get("chat_template_kwargs")
    body["chat_template_kwargs"] = {**(kwargs if isinstance(kwargs, dict) else {}), "enable_thinking": wish.on}
    if settings.switch == "template":
        return
    word = "/think" if wish.on else "/no_think"
    messages = body.get("messages")
    if not isinstance(messages, list):
        return
    # The template tests for /think first and lets the last message win: no other switch may be left standing.
    pattern = _pattern(("/think", "/no_think"))
    for message in messages:
        if isinstance(message, dict) and message.get("role") in ("system", "developer"):
            message["content"] = _defuse(message.get("content"), pattern)
    first = messages[0] if messages else None
    if isinstance(first, dict) and first.get("role") == "system" and isinstance(first.get("content"), str):
        first["content"] = f"{first['content']}\n{word}"
    else:
        messages.insert(0, {"role": "system", "content": word})


def escape_control_tokens(body: dict[str, Any], words: tuple[str, ...]) -> bool:
    """Make control words in the text of users and tools harmless, in place. True where something was changed.

    A word joiner goes behind the first letter, so that the text reads as before. System messages and the
    assistant's own turns are the operator's and the model's: they keep their words.
    """
    if not words:
        return False
    pattern = _pattern(words)
    changed = False
    for field in ("messages", "input"):
        items = body.get(field)
        if isinstance(items, str) and field == "input":
            items = body[field] = _defuse(before := items, pattern)
            changed |= items != before
        for item in items if isinstance(items, list) else ():
            if not isinstance(item, dict):
                continue
            untrusted = item.get("role", "user") in _UNTRUSTED_ROLES
            for key in ("content", "output") if untrusted else ():
                if key in item:
                    text = _defuse(item[key], pattern)
                    changed |= text != item[key]
                    item[key] = text
    return changed


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)))


def _defuse(content: object, pattern: re.Pattern[str]) -> Any:
    if isinstance(content, str):
        # More than once: what is left of </think> behind its first letter is /think.
        while pattern.search(content):
            content = pattern.sub(lambda match: match[0][0] + _JOINER + match[0][1:], content)
        return content
    if not isinstance(content, list):
        return content
    parts = [{**part, "text": _defuse(part["text"], pattern)} if _has_text(part) else part for part in content]
    texts = [part["text"] for part in parts if _has_text(part)]
    if pattern.search("".join(texts)):
        # A word that was cut in two by a part's end would grow together in the template.
        parts = [{**part, "text": _JOINER + part["text"]} if _has_text(part) else part for part in parts]
    return parts


def _has_text(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)
