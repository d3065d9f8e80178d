"""What the rules about the engine read from a deployment view."""

from __future__ import annotations

from typing import Any, Literal

from hybridserve.catalog.engines import EngineTable, engine_table
from hybridserve.compliance.view import CacheFacts, DeploymentView

VLLM = "https://github.com/vllm-project/vllm/issues/"
MEASURED = "measured on vLLM 0.29.0"

CardFact = Literal["min_vllm", "mamba_ssm_cache_dtype", "reasoning_parser", "tool_call_parser", "parser_plugin"]


def arg(view: DeploymentView, name: str) -> Any:
    """An engine argument; None where it is not set."""
    return view.engine.args.get(name)


def card_fact(view: DeploymentView, fact: CardFact) -> str | None:
    """A serving fact of the catalog's card; None where it is not known."""
    value: str | None = getattr(view.serving, fact, None)
    return value


def hybrid(view: DeploymentView) -> bool:
    """Whether the model keeps a state per sequence."""
    # An unknown architecture counts as a hybrid: these rules warn of what breaks hybrids.
    return view.engine.hybrid is not False


def caching_states(view: DeploymentView) -> bool:
    """Whether states are kept for the prefix cache."""
    return hybrid(view) and arg(view, "enable_prefix_caching") is not False


def release_table(view: DeploymentView) -> EngineTable:
    """The facts of the engine's release."""
    return engine_table(view.settings.engine.version)[0]


def hybrid_cache(view: DeploymentView) -> CacheFacts | None:
    """The plan of the cache; None for a transformer, and where nothing could be planned."""
    return view.engine.cache if hybrid(view) else None


def speculation(view: DeploymentView) -> str:
    """The method of speculative decoding; empty where there is none."""
    config: Any = arg(view, "speculative_config")
    return str(config.get("method", "a draft model")) if isinstance(config, dict) and config else ""
