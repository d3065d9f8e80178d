"""Section `guard`: safety guards on input and output. No setting lets a request pass when the guard fails."""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hybridserve.settings.section import Section
from hybridserve.validation import refused

GuardKind = Literal["none", "rules", "model", "nemo"]
GuardFormat = Literal[
    "nemotron_safety_guard",
    "nemotron_content_safety",
    "nemotron_reasoning",
    "qwen3guard",
    "granite_guardian",
    "llama_guard",
]

MAX_WINDOW = 25_000
"""Longest window of checked text, in tokens."""


class GuardSection(Section):
    """Safety guards."""

    kind: GuardKind = "none"
    """The guard that checks prompts and answers: none, patterns (`rules`), a guard model, or NeMo Guardrails."""
    input: Literal["off", "before", "overlap"] = "before"
    """When the prompt is checked: before the engine gets it, or during prefill (the answer waits for the verdict)."""
    output: bool = True
    """Check the answer, its reasoning and its tool calls before they are delivered."""
    window_tokens: int | None = Field(default=None, ge=4, le=MAX_WINDOW)
    """Streamed answers are checked and delivered in windows of this many tokens, the most that is held back.
    Empty: twice the overlap for `rules`, which are cheap to check often, else 100."""
    overlap_tokens: int = Field(default=20, ge=0)
    """Tokens at the end of a window that are checked again with the next, to find phrases across the boundary."""
    max_hold_s: float = Field(default=1.0, gt=0)
    """Longest time that text of a slow stream is held back before it is checked, even if the window is not full."""
    rules_file: str | None = None
    """YAML file of patterns for `rules`. Empty: the patterns of the package."""
    url: str | None = Field(default=None, min_length=1)
    """Base URL of the guard: an OpenAI base (http://guard/v1) for `model`, the service's URL for `nemo`. Empty with
    `model`: the chart runs the guard and sets its address; without the chart nothing starts."""
    model: str | None = None
    """The guard model, by registry id or repository: its license and its verdict format are checked."""
    served_name: str | None = Field(default=None, min_length=1)
    """Name under which the guard's endpoint serves it. Empty: guard.model."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest input of the guard in tokens, if it is served with less than its context."""
    weights: Literal["baked", "pulled", "mounted"] = "mounted"
    """How the guard model's weights are delivered. Only `baked` (inside an image) counts as distribution."""
    revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
    """Commit of the guard model's weights, for the evidence record."""
    format: GuardFormat | None = None
    """Format of the guard model's verdicts; each has a strict parser."""
    config_id: str | None = None
    """NeMo Guardrails configuration to run."""
    api_key_file: str | None = None
    """File with the key for the guard's endpoint."""
    prompt_file: str | None = None
    """File with a prompt that contains {conversation}, for a guard whose chat template has no prompt."""
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Additional chat template arguments of the guard model."""
    max_tokens: int = Field(default=128, ge=8)
    """Longest verdict in tokens. A truncated verdict is an error. Guards that reason need 400 or more."""
    controversial: Literal["block", "allow"] = "block"
    """What Qwen3Guard's verdict Controversial does."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Deadline for one verdict, retries included."""
    retries: int = Field(default=1, ge=0, le=5)
    """Retries after a connection error or a 5xx, within `retry_budget`."""
    retry_budget: float = Field(default=0.1, ge=0, le=1)
    """Maximum share of checks that may be retries, to avoid overloading a failing guard."""
    breaker_failures: int = Field(default=5, ge=1)
    """Errors in a row after which the guard is asked about a short prompt. If it fails too, the circuit breaker opens:
    requests get 503 without a call to the guard."""
    breaker_reset_s: float = Field(default=10.0, gt=0)
    """Time until the guard is asked again."""

    canary_interval_s: float = Field(default=60.0, gt=0)
    """Interval of the guard self-test: the service sends itself one prompt to block and one to pass."""
    canary_failures: int = Field(default=3, ge=1)
    """Failed self-tests in a row after which requests are rejected, until one succeeds."""
    canary_block: str | None = None
    """A prompt that this guard must block. Empty: a question about a bomb."""
    canary_pass: str | None = None
    """A prompt that this guard must let pass. Empty: a harmless question."""

    evidence_file: Path | None = None
    """Record that `hybridserve check --live` wrote; /compliance contains its digest."""
    evidence_max_age_days: int = Field(default=90, ge=1, le=366)
    """Maximum age of that record."""

    @field_validator("url")
    @classmethod
    def _has_scheme(cls, value: str | None) -> str | None:
        if value is None or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value):
            return value
        if "@" in value:  # a password may be before it
            raise refused("the address has no scheme", "begin guard.url with http:// or https://")
        rest = re.sub(r"^(https?(?=:?/))?[:/]*", "", value)
        raise refused(f"{value!r} has no scheme", f"write http://{rest} or https://{rest}")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.overlap_tokens * 2 > self.window:
            what = f"overlap_tokens {self.overlap_tokens} is more than half of the window of {self.window}"
            fix = f"set guard.overlap_tokens to {self.window // 2} or less"
            if self.overlap_tokens * 2 <= MAX_WINDOW:
                fix += f", or guard.window_tokens to {self.overlap_tokens * 2} or more"
            raise refused(what, fix, "overlap_tokens", "window_tokens")
        for kind, needed in (("model", ("model", "format")), ("nemo", ("url", "config_id"))):
            if self.kind == kind and (missing := [name for name in needed if not getattr(self, name)]):
                fix = f"set {' and '.join(f'guard.{name}' for name in missing)}, or another guard.kind"
                raise refused(f"kind {kind} needs {' and '.join(missing)}", fix, "kind")
        return self

    @property
    def window(self) -> int:
        """The effective window, in tokens."""
        if self.window_tokens is not None:
            return self.window_tokens
        return max(4, 2 * self.overlap_tokens) if self.kind == "rules" else 100
