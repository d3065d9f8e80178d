"""Section `reasoning`: how the request field `reasoning` reaches the model."""

from typing import Annotated, Literal

from pydantic import Field

from hybridserve.settings.section import Section


class ReasoningSection(Section):
    """Reasoning controls."""

    switch: Literal["auto", "template", "system", "none"] = "auto"
    """How the chat template switches reasoning: `template` by the argument enable_thinking, `system` by /think and
    /no_think in a system message (Nemotron Nano 2), or `none`. `auto`: from the catalog, else `template`."""
    default: Literal["on", "off"] | None = None
    """Default for requests that do not set it; if empty, the template's default."""
    budget: Literal["auto", "engine", "off"] = "auto"
    """Thinking budgets: enforced by the engine, or rejected with 400 (`off`). `auto` tests the engine once."""
    efforts: dict[str, int] = Field(default_factory=lambda: {"low": 512, "medium": 2048, "high": 8192})
    """Budget in tokens behind each name of `reasoning.effort`. The name none needs no budget: it is reasoning off."""
    control_words: tuple[Annotated[str, Field(min_length=2)], ...] = ("/think", "/no_think", "</think>", "<think>")
    """Control words of chat templates; they are escaped in the text of users and tools."""
    template_kwargs: tuple[str, ...] = ("enable_thinking",)
    """Arguments of the model's chat template that a request may set in `chat_template_kwargs`, as true, false, a number
    or a word. Others are rejected: a template may print them, or take them instead of the messages."""
