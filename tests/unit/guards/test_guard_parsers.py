"""Strict parsers of guard verdicts: text that is not exactly a verdict is an error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.guards import GuardError, Message, Stage
from hybridserve.guards.conversation import alternating, quoted
from hybridserve.guards.parsers import PARSERS

GOOD = [
    ("nemotron_safety_guard", "input", '{"User Safety": "safe"}', False, ()),
    (
        "nemotron_safety_guard",
        "input",
        '{"User Safety": "unsafe", "Safety Categories": "Violence, Threat"}',
        True,
        ("Violence", "Threat"),
    ),
    ("nemotron_safety_guard", "output", '{"User Safety": "unsafe", "Response Safety": "safe"}', False, ()),
    ("nemotron_safety_guard", "output", '{"User Safety": "safe", "Response Safety": "unsafe"}', True, ()),
    ("nemotron_content_safety", "input", "User Safety: safe\n", False, ()),
    (
        "nemotron_content_safety",
        "output",
        "<think>\nhm\n</think>\nUser Safety: safe\nResponse Safety: unsafe\nSafety Categories: Malware",
        True,
        ("Malware",),
    ),
    ("nemotron_reasoning", "input", "Prompt harm: unharmful\nResponse harm: unharmful", False, ()),
    ("nemotron_reasoning", "input", "Prompt harm: harmful", True, ()),
    ("qwen3guard", "input", "Safety: Safe\nCategories: None", False, ()),
    ("qwen3guard", "output", "Safety: Unsafe\nCategories: Violent\nRefusal: No", True, ("Violent",)),
    ("granite_guardian", "input", "<score> no </score>", False, ()),
    ("granite_guardian", "output", "<think>x</think>\n<score>yes</score>", True, ()),
    ("llama_guard", "input", "\n\nsafe", False, ()),
    ("llama_guard", "output", "unsafe\nS1,S10", True, ("Violent Crimes", "Hate")),
]


@pytest.mark.parametrize(("form", "stage", "text", "unsafe", "categories"), GOOD)
def test_verdict_is_parsed(form: Any, stage: Stage, text: str, unsafe: bool, categories: tuple[str, ...]) -> None:
    parsed = PARSERS[form](text, stage)
    assert parsed.unsafe is unsafe
    if unsafe:
        assert parsed.categories == categories


BAD = [
    ("nemotron_safety_guard", "input", ""),
    ("nemotron_safety_guard", "input", "safe"),
    ("nemotron_safety_guard", "input", '{"User Safety": "Safe"}'),
    ("nemotron_safety_guard", "input", '{"User Safety": "safe", "User Safety": "unsafe"}'),
    ("nemotron_safety_guard", "input", '{"User Safety": "safe"} and more'),
    ("nemotron_safety_guard", "output", '{"User Safety": "safe"}'),
    ("nemotron_safety_guard", "input", '{"Response Safety": "safe"}'),
    ("nemotron_safety_guard", "input", '{"User Safety": "saf'),
    ("nemotron_content_safety", "output", "User Safety: safe"),
    ("nemotron_content_safety", "input", "User Safety: safe\nUser Safety: unsafe"),
    ("nemotron_content_safety", "input", "<think> User Safety: safe"),
    ("nemotron_content_safety", "input", "I think that User Safety: safe"),
    ("nemotron_reasoning", "input", "Prompt harm: none"),
    ("qwen3guard", "input", "Safety: Fine\nCategories: None"),
    ("qwen3guard", "input", "Safety: Safe"),
    ("qwen3guard", "output", "Safety: Safe\nCategories: None"),
    ("granite_guardian", "input", "no"),
    ("granite_guardian", "input", "<score>no</score><score>yes</score>"),
    ("llama_guard", "input", "safe\nunsafe"),
    ("llama_guard", "input", "unsafe"),
    ("llama_guard", "input", "not safe"),
    ("llama_guard", "input", "Safe"),
]


@pytest.mark.parametrize(("form", "stage", "text"), BAD)
def test_other_text_is_an_error(form: Any, stage: Stage, text: str) -> None:
    with pytest.raises(GuardError):
        PARSERS[form](text, stage)


@given(st.sampled_from(sorted(PARSERS)), st.sampled_from(["input", "output"]), st.text(max_size=80))
def test_random_text_is_never_safe(form: Any, stage: Stage, text: str) -> None:
    try:
        parsed = PARSERS[form](text, stage)
    except GuardError:
        return
    assert parsed.unsafe or text.strip() == "safe"


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text(max_size=5)), min_size=1))
def test_conversation_alternates_and_keeps_all_text(turns: list[tuple[str, str]]) -> None:
    messages: list[Message] = [{"role": role, "content": f"<{text}>"} for role, text in turns]
    shaped = alternating(messages, "input")
    assert [turn["role"] for turn in shaped] == ["user", "assistant"] * (len(shaped) // 2) + ["user"] * (
        len(shaped) % 2
    )
    assert shaped[-1]["role"] == "user"
    joined = "".join(turn["content"] for turn in shaped)
    assert joined.replace("\n\n", "") == "".join(quoted(message["content"]) for message in messages).replace("\n\n", "")
