"""A switch word in the operator's system message is told to the engine's parser as well as to the template."""

from __future__ import annotations

import pytest

from hybridserve.serving.middleware.reasoning import Wish, take_wish
from hybridserve.settings.reasoning import ReasoningSection

USER = {"role": "user", "content": "hello /no_think"}


def wish(*messages: dict[str, str], **fields: object) -> Wish | None:
    return take_wish({"messages": [*messages, USER], **fields}, ReasoningSection())


def system(text: str, role: str = "system") -> dict[str, str]:
    return {"role": role, "content": text}


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_last_word_of_the_system_message_wins(role: str) -> None:
    assert wish(system("Be brief. /no_think", role)) == Wish(False)
    assert wish(system("/no_think /think", role)) == Wish(True)
    assert wish(system("/think"), system("/no_think", role)) == Wish(False)


def test_users_words_and_silence_switch_nothing() -> None:
    assert wish() is None
    assert wish(system("Be brief.")) is None


def test_the_field_and_the_templates_argument_come_first() -> None:
    assert wish(system("/no_think"), reasoning="on") == Wish(True)
    assert wish(system("/no_think"), chat_template_kwargs={"enable_thinking": True}) is None
