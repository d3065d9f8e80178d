"""Parsers of reasoning and tool calls, and thinking budgets: settings that decide what of the output reaches a user."""

from __future__ import annotations

from typing import Literal

from hybridserve.compliance.findings import Outcome, failed, passed, unknown
from hybridserve.compliance.rules.base import RuleFamily
from hybridserve.compliance.rules.engine_facts import VLLM, arg, card_fact, speculation
from hybridserve.compliance.view import DeploymentView

PARSERS = RuleFamily("engine")


@PARSERS.rule(
    "reasoning-parser",
    "Reasoning is separated from the answer",
    basis="https://github.com/NVIDIA/NemoClaw/pull/6992: without a parser </think> reaches agents",
    remedy="set engine.reasoning_parser to the parser that the model's card names",
    when=lambda view: view.reasoning and view.chat,
)
def reasoning_parser(view: DeploymentView) -> Outcome:
    card, named = card_fact(view, "reasoning_parser"), view.settings.engine.reasoning_parser
    # Such a parser separates what the gateway switches, not what a client writes: somebody has to decide for it.
    if card and not named and view.serving and view.serving.reasoning_switch == "system":
        return failed(f"engine.reasoning_parser is not set; {card} separates what the gateway switches")
    return _parser(view, "reasoning_parser") or failed("no parser is set for a model that reasons")


@PARSERS.rule(
    "tool-parser",
    "Tool calls are parsed in the format that the model writes",
    basis="https://github.com/NVIDIA/TensorRT-LLM/pull/13684: a wrong parser loses 2-8 % of streamed calls",
    remedy="set engine.tool_call_parser to the parser that the model's card names, or leave tool calls off",
    when=lambda view: view.chat,
)
def tool_parser(view: DeploymentView) -> Outcome:
    plugin = None if arg(view, "tool_parser_plugin") else card_fact(view, "parser_plugin")
    parser = arg(view, "tool_call_parser")
    if parser is not None and plugin:
        return failed(f"{parser}, and no plugin is loaded: {plugin}")
    outcome = _parser(view, "tool_call_parser")
    if outcome is not None:
        return outcome
    if not arg(view, "enable_auto_tool_choice"):
        return passed(f"tool calls are off: {plugin or 'no parser of vLLM is known for this model'}")
    missing = "enable_auto_tool_choice is set without a parser"
    return unknown(f"{missing}: {plugin}") if plugin else failed(missing)


@PARSERS.rule(
    "reasoning-config",
    "A thinking budget does not leave the answer empty",
    basis=VLLM + "39103",
    remedy="remove reasoning_config from engine.extra_args; with engine.reasoning_parser, budgets work without it",
    when=lambda view: bool(arg(view, "reasoning_config")),
)
def reasoning_config(view: DeploymentView) -> Outcome:
    parser = arg(view, "reasoning_parser") or card_fact(view, "reasoning_parser")
    setting = f"reasoning_config with reasoning parser {parser}"
    return failed(f"{setting}: content is null") if parser == "nemotron_v3" else passed(setting)


@PARSERS.rule(
    "budget-speculation",
    "A thinking budget is not combined with speculative decoding",
    basis=VLLM + "54906",
    remedy="remove engine.speculative_config or reasoning_config",
    when=lambda view: bool(arg(view, "reasoning_config")),
)
def budget_speculation(view: DeploymentView) -> Outcome:
    method = speculation(view)
    return failed(f"reasoning_config with {method}: the budget is not enforced") if method else passed("no speculation")


def _parser(view: DeploymentView, name: Literal["reasoning_parser", "tool_call_parser"]) -> Outcome | None:
    """Whether the parser is that of the model's card; None where neither is known."""
    parser, card = arg(view, name), card_fact(view, name)
    if card and parser not in (None, card):
        return failed(f"{parser}; the model's card names {card}")
    return passed(str(parser or card)) if parser or card else None
