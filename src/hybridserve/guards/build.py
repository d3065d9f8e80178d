"""Build the guard that the settings section `guard` describes."""

from __future__ import annotations

from pathlib import Path

from hybridserve.errors import ConfigError
from hybridserve.files import read_text
from hybridserve.guards.base import Guard
from hybridserve.guards.patterns import PatternGuard
from hybridserve.guards.resilient_guard import ResilientGuard
from hybridserve.settings.guard import GuardSection


def build_guard(settings: GuardSection, main_model: str = "main") -> ResilientGuard | None:
    """The guard of these settings; None for kind ``none``.

    Args:
        main_model: the name of the guarded model, which NeMo Guardrails requires.

    Raises:
        ConfigError: a file that the settings name cannot be used.
    """
    guard: Guard
    if settings.kind == "none":
        return None
    if settings.kind == "rules":
        guard = PatternGuard(Path(settings.rules_file) if settings.rules_file else None)
    else:
        guard = _remote_guard(settings, main_model)
    return ResilientGuard(
        guard,
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        retry_budget=settings.retry_budget,
        breaker_failures=settings.breaker_failures,
        breaker_reset_s=settings.breaker_reset_s,
    )


def guard_url(settings: GuardSection) -> str:
    """The address of the guard.

    Raises:
        ConfigError: it is empty.
    """
    if settings.url is None:
        raise ConfigError(
            "guard.url",
            f"is empty, and guard.kind is {settings.kind}",
            "the address of the guard, such as http://127.0.0.1:8002/v1; a release of the chart sets it for the guard "
            "that it runs (guard.deploy.enabled)",
        )
    return settings.url


def _remote_guard(settings: GuardSection, main_model: str) -> Guard:
    # Imported here, because a guard of patterns needs no HTTP client.
    from hybridserve.guards.model import ModelGuard
    from hybridserve.guards.nemo import NemoGuard

    url = guard_url(settings)
    key = read_text(Path(settings.api_key_file), "guard.api_key_file").strip() if settings.api_key_file else None
    if settings.kind == "nemo":
        assert settings.config_id is not None
        return NemoGuard(
            url=url,
            config_id=settings.config_id,
            model=settings.served_name or main_model,
            api_key=key,
            timeout_s=settings.timeout_s,
        )
    assert settings.model is not None
    assert settings.format is not None
    prompt = read_text(Path(settings.prompt_file), "guard.prompt_file").strip() if settings.prompt_file else None
    if prompt is not None and "{conversation}" not in prompt:
        raise ConfigError("guard.prompt_file", "does not contain {conversation}", "add it where the conversation goes")
    return ModelGuard(
        url=url,
        model=settings.served_name or settings.model,
        form=settings.format,
        api_key=key,
        timeout_s=settings.timeout_s,
        max_tokens=settings.max_tokens,
        controversial_blocks=settings.controversial == "block",
        template_kwargs=settings.template_kwargs,
        prompt=prompt,
    )
