"""A scenario: what to send, how often, and the SLO. One YAML file; unknown fields are errors."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from hybridserve import yamlio
from hybridserve.errors import ConfigError
from hybridserve.loadtest.load_curve import Constant, Curve, Steps
from hybridserve.loadtest.request_record import Outcome
from hybridserve.settings.slo import LatencySLO
from hybridserve.validation import from_validation, refused

BUILT_IN = resources.files("hybridserve.loadtest") / "scenarios"
Share = Annotated[float, Field(ge=0, le=1)]
Tokens = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Kind(_Part):
    name: str
    weight: PositiveFloat = 1.0
    expect: Outcome = Outcome.OK


class TokenKind(_Kind):
    """A completion of random token ids with exact prompt and output lengths; no prefix is cached."""

    type: Literal["tokens"]
    prompt: Tokens
    output: Tokens
    shared_prefix: Annotated[int, Field(ge=0)] = 0
    """Tokens at the start that all requests of this kind share."""
    fill_context: bool = False
    """The prompt fills the server's context up to the output; `prompt` when the server reports no limit."""

    @model_validator(mode="after")
    def _consistent(self) -> TokenKind:
        if self.shared_prefix >= self.prompt:
            what = f"shared_prefix {self.shared_prefix} leaves nothing of a prompt of {self.prompt}"
            raise refused(what, f"set shared_prefix to {self.prompt - 1} or less")
        return self

    @property
    def least(self) -> int:
        """Smallest context that fits a request of this kind, in tokens."""
        return (self.shared_prefix + 1 if self.fill_context else self.prompt) + self.output


class ChatKind(_Kind):
    """A conversation: one question after another, each with all earlier messages."""

    type: Literal["chat"]
    questions: tuple[str, ...] = Field(min_length=1)
    system: str | None = None
    repeat_system: PositiveInt = 1
    """Repetitions of the system prompt, for long prompts in short files."""
    turns: PositiveInt = 1
    think_s: NonNegativeFloat = 0.0
    """Mean seconds between an answer and the next turn (exponential)."""
    max_tokens: Tokens = 256
    fixed_length: bool = False
    """Ignore the end of sequence: each answer has max_tokens tokens."""
    reasoning: Literal["default", "on", "off"] = "default"
    budget: PositiveInt | None = None
    budget_slack: Annotated[int, Field(ge=0)] = 8
    """Tokens over the budget that are allowed, for the text that ends the reasoning."""
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatKind:
        if self.budget is not None and self.reasoning == "off":
            raise refused(
                f"budget {self.budget} has no effect with reasoning off", "set reasoning to on, or remove budget"
            )
        return self


class FileKind(_Kind):
    """Completions from a file, in its order: JSON lines with `prompt` and optionally `output_tokens`."""

    type: Literal["file"]
    path: Path
    """In a scenario file, relative to that file."""
    output: Tokens = 128


Kind = Annotated[TokenKind | ChatKind | FileKind, Field(discriminator="type")]


class LoadTestSLO(_Part):
    """Objectives: limits for each request in seconds, and the share of requests that must keep them."""

    ttft: PositiveFloat | None = None
    tpot: PositiveFloat | None = None
    e2e: PositiveFloat | None = None
    attainment: Share = 0.95
    """Share of attempted requests that keep all limits."""
    errors: Share = 0.01
    percentiles: dict[
        Annotated[str, Field(pattern=r"^(ttft|tpot|itl|e2e|ttfa)_(p50|p90|p95|p99)$")], PositiveFloat
    ] = {}

    @property
    def limits(self) -> LatencySLO:
        return LatencySLO(self.ttft, self.tpot, self.e2e)


class Client(_Part):
    """Limits of the client. Beyond them the client is the bottleneck and the run is void."""

    max_cpu: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of one core, of the busiest worker."""
    max_lag_share: PositiveFloat = 0.2
    """Lag of the event loop and of the schedule, as a share of the same percentile of TTFT ..."""
    lag_floor_s: PositiveFloat = 0.01
    """... and a lag that is always allowed."""
    max_tokens_per_s: PositiveFloat = 5000.0
    """Streamed tokens/s of one worker; measured by benchmarks/loadtest_client.py."""
    timeout_s: PositiveFloat = 120.0
    """Longest time without data on a connection."""


class Scenario(_Part):
    """One scenario file."""

    about: str
    mode: Literal["closed", "open"]
    arrivals: Literal["poisson", "constant"] = "poisson"
    curve: Curve
    mix: tuple[Kind, ...] = Field(min_length=1)
    warm_up: NonNegativeFloat = 5.0
    """Seconds of load that do not count."""
    drain: PositiveFloat = 120.0
    """Seconds for open requests to finish after the end of the curve."""
    requests: PositiveInt | None = None
    """Stop after this number of requests after the warm-up."""
    trace: Path | None = None
    """Replay this CSV (time, prompt, output) instead of the curve and the mix; a path as that of a `FileKind`."""
    trace_scale: PositiveFloat = 1.0
    """Multiplies the token counts of the trace."""
    temperature: NonNegativeFloat = 0.0
    seed: int = 1
    slo: LoadTestSLO = LoadTestSLO()
    client: Client = Client()

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        names = [kind.name for kind in self.mix]
        if len(set(names)) < len(names):
            raise refused("two kinds of the mix have the same name", "give each a name of its own")
        if self.trace is not None and self.mode != "open":
            raise refused(f"a trace cannot be replayed in mode {self.mode}", "set mode to open")
        if self.mode == "closed" and isinstance(self.curve, Constant) and self.curve.level != int(self.curve.level):
            raise refused(f"{self.curve.level:g} is not a number of users", "set curve.level to a whole number")
        return self

    @property
    def longest(self) -> int:
        """Tokens of the longest request of type tokens; 0 when there is none."""
        return max((kind.least for kind in self.mix if isinstance(kind, TokenKind)), default=0)

    @property
    def needs_guard(self) -> bool:
        """Whether a kind of the mix must be blocked. A trace replaces the mix."""
        return self.trace is None and any(kind.expect is Outcome.GUARD for kind in self.mix)

    def scaled(self, factor: float) -> Scenario:
        """All token counts times `factor` (at least 1), to fit a scenario into a small model."""
        mix = tuple(_scale(kind, factor) for kind in self.mix)
        return self.model_copy(update={"mix": mix, "trace_scale": self.trace_scale * factor})

    def fitted(self, context: int | None) -> Scenario:
        """With prompts that fill a context of so many tokens; unchanged when the limit is unknown."""
        mix = [
            kind.model_copy(update={"prompt": context - kind.output})
            if context is not None and isinstance(kind, TokenKind) and kind.fill_context
            else kind
            for kind in self.mix
        ]
        return self.model_copy(update={"mix": tuple(mix)})

    def beside(self, folder: Path) -> Scenario:
        """With the relative paths of its files taken from this folder."""
        mix = tuple(
            kind.model_copy(update={"path": folder / kind.path}) if isinstance(kind, FileKind) else kind
            for kind in self.mix
        )
        trace = None if self.trace is None else folder / self.trace
        return self.model_copy(update={"mix": mix, "trace": trace})

    def lasting(self, seconds: float) -> Scenario:
        """The same curve with this duration after the warm-up; steps of equal length."""
        update = {"each": seconds / len(self.curve.levels)} if isinstance(self.curve, Steps) else {"seconds": seconds}
        return self.model_copy(update={"curve": self.curve.model_copy(update=update)})

    def at_level(self, level: float, seconds: float | None = None) -> Scenario:
        """The same scenario at one constant level."""
        curve = Constant(level=level, seconds=seconds or self.curve.seconds)
        return self.model_copy(update={"curve": curve, "trace": None})


def _scale(kind: TokenKind | ChatKind | FileKind, factor: float) -> TokenKind | ChatKind | FileKind:
    def times(count: int) -> int:
        return max(1, round(count * factor))

    names = {"tokens": ("prompt", "output"), "chat": ("max_tokens", "repeat_system", "budget"), "file": ("output",)}
    update = {name: times(count) for name in names[kind.type] if (count := getattr(kind, name)) is not None}
    if isinstance(kind, TokenKind):
        update["shared_prefix"] = min(round(kind.shared_prefix * factor), update["prompt"] - 1)
    return kind.model_copy(update=update)


def built_in() -> list[str]:
    """Names of the packaged scenarios."""
    return sorted(entry.name.removesuffix(".yaml") for entry in BUILT_IN.iterdir() if entry.name.endswith(".yaml"))


def load_scenario(name: str) -> Scenario:
    """Load a packaged scenario by name, or a file; relative paths in a file are relative to it.

    Raises:
        ConfigError: unknown, not readable, or invalid.
    """
    if name in built_in():
        return parse_scenario((BUILT_IN / f"{name}.yaml").read_text(), name)
    if not name.endswith((".yaml", ".yml", ".json")):
        raise ConfigError(
            "SCENARIO", f"there is no scenario {name!r}", f"use a file, or one of {', '.join(built_in())}"
        )
    return validate_scenario(yamlio.read(Path(name), name), name).beside(Path(name).parent)


def parse_scenario(text: str, where: str) -> Scenario:
    """Parse the YAML of a scenario.

    Raises:
        ConfigError: not YAML, or invalid; names the first invalid field.
    """
    return validate_scenario(yamlio.parse(text, where), where)


def validate_scenario(tree: Any, where: str) -> Scenario:
    """Validate the content of a scenario file.

    Raises:
        ConfigError: invalid.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(where, "is not a mapping", "see docs/how-to/load-test.md for the format")
    try:
        return Scenario.model_validate(tree)
    except ValidationError as error:
        raise from_validation(error, where, "see docs/how-to/load-test.md for the format") from None
