"""Section `reasoning`: how the request field `reasoning` reaches the model."""

from typing import Annotated, Literal

from pydantic import Field

from hybridserve.settings.section import Section


class ReasoningSection(Section):
    """Reasoning control."""

    switch: Literal["auto", "template", "system", "none"] = "auto"
    """What the chat template understands: the argument enable_thinking, the words /think and /no_think in a system
    message (Nemotron Nano 2), or nothing. `auto`: as the catalog knows the model, else `template`."""
    default: Literal["on", "off"] | None = None
    """Used where a request says nothing; the template's own default when empty."""
    budget: Literal["auto", "engine", "off"] = "auto"
    """Thinking budgets: enforced by the engine, or rejected with 400 (`off`). `auto` tests the engine once."""
    efforts: dict[str, int] = Field(default_factory=lambda: {"low": 512, "medium": 2048, "high": 8192})
    """Budget in tokens behind each name of `reasoning.effort`."""
    control_words: tuple[Annotated[str, Field(min_length=2)], ...] = ("/think", "/no_think", "</think>", "<think>")
    """Words that templates act on wherever they stand; in the text of users and tools they are made harmless."""
