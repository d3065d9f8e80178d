"""Section `guard`: safety guards on input and output. An error of the guard is never a pass; no knob says so."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hybridserve.settings.section import Section

GuardKind = Literal["none", "rules", "model", "nemo"]
GuardFormat = Literal[
    "nemotron_safety_guard",
    "nemotron_content_safety",
    "nemotron_reasoning",
    "qwen3guard",
    "granite_guardian",
    "llama_guard",
]


class GuardSection(Section):
    """Safety guards."""

    kind: GuardKind = "none"
    """Which guard checks requests and answers: none, patterns, a guard model, or NeMo Guardrails."""
    input: Literal["off", "before", "overlap"] = "before"
    """When the prompt is checked: before the engine sees it, or while it already prefills (the answer waits)."""
    output: bool = True
    """Check the answer, its reasoning and its tool calls before the client gets them."""
    window_tokens: int | None = Field(default=None, ge=4, le=25_000)
    """Streamed answers are checked and delivered in windows of so many tokens: the most that is held back.
    Empty: twice the overlap for `rules`, which cost nothing to ask often, else 100."""
    overlap_tokens: int = Field(default=20, ge=0)
    """Tail of a window that is checked again with the next: nothing shorter can slip through a boundary."""
    max_hold_s: float = Field(default=1.0, gt=0)
    """A slow stream is checked after this long, even where the window is not full."""
    rules_file: str | None = None
    """YAML file of patterns for `rules`; the ones that come with the package when empty."""
    url: str | None = None
    """Base URL of the guard: the OpenAI base (http://guard:8000/v1) for `model`, the service's for `nemo`."""
    model: str | None = None
    """Name under which the guard model is served."""
    revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
    """Commit of the guard model's weights, for the record of what was checked with."""
    format: GuardFormat | None = None
    """Form of the guard model's verdict; each has its own strict parser."""
    config_id: str | None = None
    """NeMo Guardrails configuration to run."""
    api_key_file: str | None = None
    """File with the key for the guard's endpoint."""
    prompt_file: str | None = None
    """Text with {conversation} that replaces our own prompt, for a guard that has none in its chat template."""
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further chat template arguments of the guard model."""
    max_tokens: int = Field(default=128, ge=8)
    """Longest verdict; one that is cut off counts as an error. Guards that reason need 400 or more."""
    controversial: Literal["block", "allow"] = "block"
    """What Qwen3Guard's middle verdict means."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Longest wait for one verdict, retries included."""
    retries: int = Field(default=1, ge=0, le=5)
    """Second attempts after a connection fault or a 5xx, while the budget lasts."""
    retry_budget: float = Field(default=0.1, ge=0, le=1)
    """Retries may be at most this share of checks, so that a sick guard is not hit harder."""
    breaker_failures: int = Field(default=5, ge=1)
    """Errors in a row after which the guard is not asked for a while; requests get 503 at once."""
    breaker_reset_s: float = Field(default=10.0, gt=0)
    """How long that while is; then one check probes."""

    canary_interval_s: float = Field(default=60.0, gt=0)
    """So often the running service sends itself one prompt to block and one to pass, through its own door."""
    canary_failures: int = Field(default=3, ge=1)
    """Rounds in a row that may fail before nothing is served until one comes back as it must."""
    canary_block: str | None = None
    """A prompt that this guard must block, where ours is not its business (the one about a bomb)."""
    canary_pass: str | None = None
    """A prompt that this guard must let pass, in place of ours."""

    evidence_file: Path | None = None
    """Record that `hybridserve check --live` wrote; /compliance shows its digest."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.overlap_tokens * 2 > self.window:
            raise ValueError(f"overlap_tokens {self.overlap_tokens} is more than half of the window of {self.window}")
        if self.kind == "model" and not (self.url and self.model and self.format):
            raise ValueError("kind model needs url, model and format")
        if self.kind == "nemo" and not (self.url and self.config_id):
            raise ValueError("kind nemo needs url and config_id")
        return self

    @property
    def window(self) -> int:
        """The window in force, in tokens."""
        if self.window_tokens is not None:
            return self.window_tokens
        return max(4, 2 * self.overlap_tokens) if self.kind == "rules" else 100
