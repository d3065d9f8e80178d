"""Checks before a run: the server answers, accepts the key, serves the model, and its context fits the scenario."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from hybridserve.errors import ConfigError, ServiceError
from hybridserve.loadtest.prompts import read_prompts
from hybridserve.loadtest.scenario import FileKind, Scenario, TokenKind
from hybridserve.simulator.traffic import read_trace

_SMALL, _LARGE = (100, 900), (2000, 30000)
"""Token ids of random prompts. Every vocabulary has the small ids; in large vocabularies those are special tokens."""


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """What the server reports about itself."""

    model: str
    max_model_len: int | None
    token_ids: tuple[int, int]


def preflight(url: str, key: str | None, model: str | None, scenario: Scenario) -> ServerTarget:
    """Query /v1/models, and try one token.

    Raises:
        ServiceError: no answer, the key is refused, it is not an OpenAI API, or it lacks the guard of the scenario.
        ConfigError: the model is not served, its context is too small, or a file of the scenario cannot be read.
    """
    longest = _longest(scenario)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    base = url.rstrip("/").removesuffix("/v1")
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=60, trust_env=False) as client:
            found = _models(client, base)
            names = [str(entry.get("id")) for entry in found]
            if model is not None and model not in names:
                raise ConfigError("--model", f"{model!r} is not served", f"use one of {', '.join(names)}")
            chosen = found[names.index(model)] if model is not None else found[0]
            limit = chosen.get("max_model_len")
            if limit is not None and longest > limit:
                raise ConfigError(
                    "--scale",
                    f"the scenario needs {longest:,} tokens of context, the server has {limit:,}",
                    f"set --scale to {limit / longest * 0.98:.3g} or less",
                )
            if scenario.needs_guard:
                _require_guard(client, base)
            random_ids = scenario.trace is not None or any(isinstance(kind, TokenKind) for kind in scenario.mix)
            ids = _token_ids(client, str(chosen["id"])) if random_ids else _SMALL
            return ServerTarget(str(chosen["id"]), limit, ids)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigError("--url", f"{url!r}: {error}", "for example http://127.0.0.1:8000") from None
    except httpx.HTTPError as error:
        raise ServiceError(
            base, f"does not answer ({type(error).__name__})", "start it with hybridserve serve, or set --url"
        ) from None


def _models(client: httpx.Client, base: str) -> list[dict[str, Any]]:
    answer = client.get("/v1/models")
    if answer.status_code in (401, 403):
        raise ServiceError(base, f"refused the key (HTTP {answer.status_code})", "set LOADTEST_API_KEY or --key")
    try:
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        found[0]["id"]
    except (httpx.HTTPStatusError, ValueError, KeyError, IndexError, TypeError):
        raise ServiceError(
            f"{base}/v1/models", f"HTTP {answer.status_code} instead of a list of models", "check the URL of the API"
        ) from None
    return found


def _require_guard(client: httpx.Client, base: str) -> None:
    """Other servers than hybridserve's do not tell whether they have a guard; the requests then show it."""
    try:
        about = client.get("/about").raise_for_status().json()
    except (httpx.HTTPStatusError, ValueError):
        return
    if isinstance(about, dict) and about.get("service") == "hybridserve" and about.get("guard", "") is None:
        raise ServiceError(
            base,
            "has no guard (guard.kind is none), and this scenario has requests that a guard must block",
            "set the section guard of its settings, for a first try guard.kind=rules, and start it again",
        )


def _longest(scenario: Scenario) -> int:
    """Tokens of the longest request. Also reads the files of prompts, so that errors show before a run."""
    for kind in scenario.mix:
        if isinstance(kind, FileKind):
            read_prompts(kind)
    if scenario.trace is None:
        return scenario.longest
    return max(round((prompt + output) * scenario.trace_scale) for _, prompt, output in read_trace(scenario.trace))


def _token_ids(client: httpx.Client, model: str) -> tuple[int, int]:
    """The large range if the model's vocabulary has it: vLLM refuses an unknown id."""
    body = {"model": model, "prompt": [_LARGE[1]], "max_tokens": 1, "temperature": 0}
    return _LARGE if client.post("/v1/completions", json=body).status_code == 200 else _SMALL
