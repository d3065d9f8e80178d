"""Parsers of reasoning and tool calls, and thinking budgets: settings that decide what of the output reaches a user."""

from __future__ import annotations

from typing import Literal

from hybridserve.compliance.findings import Outcome, failed, passed, unknown
from hybridserve.compliance.rules.base import RuleFamily
from hybridserve.compliance.rules.engine_facts import VLLM, arg, card_fact, speculation
from hybridserve.compliance.view import DeploymentView

PARSERS = RuleFamily("engine")
# Parsers that read the template argument `enable_thinking`, which the gateway sends with /think and /no_think. Seen in
# vLLM 0.29 on "why</think>answer" with reasoning and "answer" without; the others return that answer as reasoning.
READ_ARGUMENT = ("nemotron_v3", "qwen3")
# vLLM's arguments that load a parser which it does not have.
PLUGINS = {"reasoning_parser": "reasoning_parser_plugin", "tool_call_parser": "tool_parser_plugin"}


@PARSERS.rule(
    "reasoning-parser",
    "Reasoning is separated from the answer",
    basis="https://github.com/NVIDIA/NemoClaw/pull/6992: without a parser </think> reaches agents",
    remedy="set engine.reasoning_parser to the parser that the model's card names; empty where it names none",
    when=lambda view: view.reasoning and view.chat,
)
def reasoning_parser(view: DeploymentView) -> Outcome:
    return _parser(view, "reasoning_parser", "no parser is set for a model that reasons")


@PARSERS.rule(
    "tool-parser",
    "Tool calls are parsed in the format that the model writes",
    basis="https://github.com/NVIDIA/TensorRT-LLM/pull/13684: a wrong parser loses 2-8 % of streamed calls",
    remedy="set engine.tool_call_parser to the parser that the model's card names, or leave tool calls off",
    when=lambda view: view.chat,
)
def tool_parser(view: DeploymentView) -> Outcome | None:
    named = arg(view, "tool_call_parser") or card_fact(view, "tool_call_parser")
    if named is None and not arg(view, "enable_auto_tool_choice"):
        return None
    return _parser(view, "tool_call_parser", "enable_auto_tool_choice is set without a parser")


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


def _parser(view: DeploymentView, name: Literal["reasoning_parser", "tool_call_parser"], missing: str) -> Outcome:
    parser, card, plugin = arg(view, name), card_fact(view, name), card_fact(view, "parser_plugin")
    if parser is None and card is None:
        return unknown(f"{missing}: {plugin}") if plugin else failed(missing)
    if card and parser not in (None, card):
        return failed(f"{parser}; the model's card names {card}")
    lacks = plugin and not card and not arg(view, PLUGINS[name])
    if lacks and (name == "tool_call_parser" or parser not in READ_ARGUMENT):
        return failed(f"{parser}, and no plugin is loaded: {plugin}")
    return passed(str(parser or card))
