"""A scenario: who asks what, how often, and what is good enough. One YAML file, read strictly."""

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
from hybridserve.errors import ConfigError, from_validation
from hybridserve.loadtest.curves import Constant, Curve
from hybridserve.loadtest.request_record import Outcome
from hybridserve.settings.slo import LatencySLO

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
    """A completion of random token ids: prompt and output have exactly these lengths, and no prefix is ever cached."""

    type: Literal["tokens"]
    prompt: Tokens
    output: Tokens
    shared_prefix: Annotated[int, Field(ge=0)] = 0
    """Tokens at the start that all requests of this kind have in common."""
    fill_context: bool = False
    """The prompt takes all that the server's context leaves beside the output; `prompt` where the server names none."""

    @model_validator(mode="after")
    def _consistent(self) -> TokenKind:
        if self.shared_prefix >= self.prompt:
            raise ValueError("shared_prefix leaves nothing of the prompt")
        return self

    @property
    def least(self) -> int:
        """Tokens of context without which it cannot be sent."""
        return (self.shared_prefix + 1 if self.fill_context else self.prompt) + self.output


class ChatKind(_Kind):
    """A conversation: questions in turn, each with all that was said before."""

    type: Literal["chat"]
    questions: tuple[str, ...] = Field(min_length=1)
    system: str | None = None
    repeat_system: PositiveInt = 1
    """The system prompt is written so many times: long ones without long files."""
    turns: PositiveInt = 1
    think_s: NonNegativeFloat = 0.0
    """Mean seconds between an answer and the next turn (exponential)."""
    max_tokens: Tokens = 256
    fixed_length: bool = False
    """Ignore the end of sequence: each answer has max_tokens tokens."""
    reasoning: Literal["default", "on", "off"] = "default"
    budget: PositiveInt | None = None
    budget_slack: Annotated[int, Field(ge=0)] = 8
    """Tokens over the budget that are not an overrun: the words that close the reasoning."""
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatKind:
        if self.budget is not None and self.reasoning == "off":
            raise ValueError("a budget with reasoning off")
        return self


class FileKind(_Kind):
    """Completions from a file, in its order: JSON lines with `prompt` and, optionally, `output_tokens`."""

    type: Literal["file"]
    path: Path
    output: Tokens = 128


Kind = Annotated[TokenKind | ChatKind | FileKind, Field(discriminator="type")]


class LoadTestSLO(_Part):
    """What is good: limits for each request in seconds, and the shares that must keep them."""

    ttft: PositiveFloat | None = None
    tpot: PositiveFloat | None = None
    e2e: PositiveFloat | None = None
    goodput: Share = 0.95
    """Share of attempted requests that keep all limits at once."""
    errors: Share = 0.01
    percentiles: dict[
        Annotated[str, Field(pattern=r"^(ttft|tpot|itl|e2e|ttfa)_(p50|p90|p95|p99)$")], PositiveFloat
    ] = {}

    @property
    def limits(self) -> LatencySLO:
        return LatencySLO(self.ttft, self.tpot, self.e2e)


class Client(_Part):
    """When the client itself is the bottleneck, and the run is void."""

    max_cpu: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of one core, of the busiest worker, over the measured part."""
    max_lag_share: PositiveFloat = 0.2
    """Lag of the event loop, and of requests behind their schedule: a share of the same percentile of TTFT ..."""
    lag_floor_s: PositiveFloat = 0.01
    """... but never stricter than this."""
    max_tokens_per_s: PositiveFloat = 5000.0
    """Streamed tokens/s of one worker; measured by benchmarks/loadtest_client.py."""
    timeout_s: PositiveFloat = 120.0
    """Longest silence on a connection."""


class Scenario(_Part):
    """One scenario file."""

    about: str
    mode: Literal["closed", "open"]
    arrivals: Literal["poisson", "constant"] = "poisson"
    curve: Curve
    mix: tuple[Kind, ...] = Field(min_length=1)
    warm_up: NonNegativeFloat = 5.0
    """Seconds that are sent, and not counted."""
    drain: PositiveFloat = 120.0
    """Seconds that requests get to finish after the curve ended."""
    requests: PositiveInt | None = None
    """Stop after so many, counted after the warm-up, if the curve does not end first."""
    trace: Path | None = None
    """Replay this CSV (time, prompt, output) instead of the curve and the mix."""
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
            raise ValueError("two kinds of the mix have one name")
        if self.trace is not None and self.mode != "open":
            raise ValueError("a trace is replayed in mode open")
        if self.mode == "closed" and isinstance(self.curve, Constant) and self.curve.level != int(self.curve.level):
            raise ValueError("users are whole numbers")
        return self

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and output that are asked for by count; 0 where only text is."""
        return max((kind.least for kind in self.mix if isinstance(kind, TokenKind)), default=0)

    def scaled(self, factor: float) -> Scenario:
        """All token counts times `factor`, at least one: the shape of a grid on a small machine."""
        mix = tuple(_scale(kind, factor) for kind in self.mix)
        return self.model_copy(update={"mix": mix, "trace_scale": self.trace_scale * factor})

    def fitted(self, context: int | None) -> Scenario:
        """With the prompts that fill a context of so many tokens; unchanged where it is not known."""
        if context is None:
            return self
        full = {
            kind.name: kind.model_copy(update={"prompt": context - kind.output})
            for kind in self.mix
            if isinstance(kind, TokenKind) and kind.fill_context
        }
        return self.model_copy(update={"mix": tuple(full.get(kind.name, kind) for kind in self.mix)})

    def at_level(self, level: float, seconds: float | None = None) -> Scenario:
        """The same at one constant level."""
        curve = Constant(level=level, seconds=seconds or self.curve.seconds)
        return self.model_copy(update={"curve": curve, "trace": None})


def _scale(kind: TokenKind | ChatKind | FileKind, factor: float) -> TokenKind | ChatKind | FileKind:
    def times(count: int) -> int:
        return max(1, round(count * factor))

    if isinstance(kind, TokenKind):
        shared = min(round(kind.shared_prefix * factor), times(kind.prompt) - 1)
        return kind.model_copy(
            update={"prompt": times(kind.prompt), "output": times(kind.output), "shared_prefix": shared}
        )
    if isinstance(kind, ChatKind):
        update: dict[str, Any] = {"max_tokens": times(kind.max_tokens), "repeat_system": times(kind.repeat_system)}
        if kind.budget is not None:
            update["budget"] = times(kind.budget)
        return kind.model_copy(update=update)
    return kind.model_copy(update={"output": times(kind.output)})


def built_in() -> list[str]:
    """Names of the scenarios that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in BUILT_IN.iterdir() if entry.name.endswith(".yaml"))


def load_scenario(name: str) -> Scenario:
    """A scenario by name, or from a file.

    Raises:
        ConfigError: unknown, not readable, or not of this form.
    """
    if name in built_in():
        return parse_scenario((BUILT_IN / f"{name}.yaml").read_text(), name)
    if not name.endswith((".yaml", ".yml", ".json")):
        raise ConfigError("SCENARIO", f"{name!r} is not one", f"a file, or one of {', '.join(built_in())}")
    try:
        return parse_scenario(Path(name).read_text(), name)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("SCENARIO", f"{name!r} is not readable: {error}", "give a YAML file") from None


def parse_scenario(text: str, where: str) -> Scenario:
    """Parse the text of a scenario.

    Raises:
        ConfigError: not YAML, or not of this form; says the place of the first fault.
    """
    return validate_scenario(yamlio.parse(text, where), where)


def validate_scenario(tree: Any, where: str) -> Scenario:
    """Check a tree.

    Raises:
        ConfigError: not of this form.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(where, "is not a mapping", "see docs/how-to/load-test.md for the form")
    try:
        return Scenario.model_validate(tree)
    except ValidationError as error:
        raise from_validation(error, where, "see docs/how-to/load-test.md for the format") from None
