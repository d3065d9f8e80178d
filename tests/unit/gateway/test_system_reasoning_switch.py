"""A switch word in the operator's system message is told to the engine's parser as well as to the template."""

from __future__ import annotations

import pytest

from hybridserve.catalog.models import load_card, model_ids
from hybridserve.gateway.reasoning.controls import ReasoningOptions, apply_switch, for_model, take_reasoning_options
from hybridserve.settings.reasoning import ReasoningSection

USER = {"role": "user", "content": "hello /no_think"}


def wish(*messages: dict[str, str], **fields: object) -> ReasoningOptions | None:
    return take_reasoning_options({"messages": [*messages, USER], **fields}, ReasoningSection())


def system(text: str, role: str = "system") -> dict[str, str]:
    return {"role": role, "content": text}


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_last_word_of_the_system_message_wins(role: str) -> None:
    assert wish(system("Be brief. /no_think", role)) == ReasoningOptions(False)
    assert wish(system("/no_think /think", role)) == ReasoningOptions(True)
    assert wish(system("/think"), system("/no_think", role)) == ReasoningOptions(False)


def test_users_words_and_silence_switch_nothing() -> None:
    assert wish() is None
    assert wish(system("Be brief.")) is None


def test_the_field_and_the_templates_argument_come_first() -> None:
    assert wish(system("/no_think"), reasoning="on") == ReasoningOptions(True)
    assert wish(system("/no_think"), chat_template_kwargs={"enable_thinking": True}) is None


def test_the_switch_is_the_one_that_the_model_is_known_to_have() -> None:
    known = {
        model: load_card(model).serving for model in ("nemotron-nano-9b-v2", "qwen3-8b", "demo", "granite-4.0-h-small")
    }
    switches = {model: for_model(ReasoningSection(), facts).switch for model, facts in known.items()}
    assert switches == {
        "nemotron-nano-9b-v2": "system",
        "qwen3-8b": "template",
        "demo": "template",
        "granite-4.0-h-small": "none",
    }
    assert for_model(ReasoningSection(), None).switch == "template"
    assert for_model(ReasoningSection(switch="none"), known["demo"]).switch == "none"
    assert for_model(ReasoningSection(), known["demo"]).closing == "</think>"
    assert for_model(ReasoningSection(), known["qwen3-8b"]).closing == "\n</think>\n\n"


def test_where_words_switch_the_engines_parser_is_told_too() -> None:
    body: dict[str, object] = {"messages": [USER]}
    apply_switch(body, ReasoningOptions(False), ReasoningSection(switch="system"))
    assert body["messages"] == [system("/no_think"), USER]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_every_card_of_a_chat_model_says_how_it_is_switched() -> None:
    assert [model for model in model_ids() if load_card(model).serving.reasoning_switch is None] == []
