"""Service times and capacity of a replica, from a calibration file.

An engine step that decodes `n` sequences with `c` tokens of context in total and computes `p` prompt tokens takes::

    fixed_s + per_sequence_s * n + per_context_token_s * c + per_prompt_token_s * p

The file (YAML or JSON)::

    name: demo model on 2 CPU cores
    kind: measured                    # or bound: computed from the data sheet; real engines are slower
    source: make calibrate, 2026-11-23, load 1 to 16 sequences
    step: {fixed_s: 0.004, per_sequence_s: 0.0003, per_context_token_s: 1.0e-7, per_prompt_token_s: 0.00005}
    engine: {max_num_seqs: 16, max_num_batched_tokens: 2048, align_prefill: true, prefix_match_unit: 32}
    # blocks of a sequence: state_blocks + growing_groups * ceil(tokens / block_size)
    cache: {usable_blocks: 63, block_size: 128, state_blocks: 2, growing_groups: 1}
    request_overhead_s: 0.003         # before the engine: proxy, HTTP, tokenizer
    start_up_s: 45                    # until a new replica takes requests
    error: {ttft: 0.12, inter_token: 0.08}   # median relative error of the fit, measured only
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybridserve import yamlio
from hybridserve.autoscaling.capacity import ReplicaCapacity
from hybridserve.errors import ConfigError
from hybridserve.units import counted
from hybridserve.validation import from_validation

BUILT_IN = resources.files("hybridserve.simulator") / "calibrations"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StepTime(_Section):
    """Duration of an engine step in seconds, as a linear function of its work."""

    fixed_s: float = Field(gt=0)
    per_sequence_s: float = Field(ge=0)
    per_context_token_s: float = Field(ge=0)
    per_prompt_token_s: float = Field(gt=0)

    def seconds(self, sequences: float, context: float, prompt: float = 0.0) -> float:
        """Duration of a step.

        Args:
            sequences: sequences that decode a token.
            context: tokens of their context in total.
            prompt: prompt tokens that are computed.
        """
        return (
            self.fixed_s
            + self.per_sequence_s * sequences
            + self.per_context_token_s * context
            + self.per_prompt_token_s * prompt
        )


class EngineLimits(_Section):
    """Limits of the engine's scheduler."""

    max_num_seqs: int = Field(ge=1)
    max_num_batched_tokens: int = Field(ge=1)
    align_prefill: bool
    """Prefill chunks except the last are multiples of the block size (mamba cache mode align)."""
    prefix_match_unit: int | None = Field(default=None, ge=1)
    """With it an aligned prefill also ends a step at its last whole block and its last unit, where states are cached.
    Without it these steps are not simulated: they are in the measured times."""


class CacheBlocks(_Section):
    """The planned block pool; the fields are those of `ReplicaCapacity`."""

    usable_blocks: int = Field(ge=1)
    block_size: int = Field(ge=1)
    state_blocks: int = Field(ge=0)
    growing_groups: int = Field(ge=0)


class FitError(_Section):
    """Median relative error of the fit."""

    ttft: float = Field(ge=0)
    inter_token: float = Field(ge=0)


class ServiceTimes(_Section):
    """A calibration file."""

    name: str
    kind: Literal["measured", "bound"]
    source: str
    step: StepTime
    engine: EngineLimits
    cache: CacheBlocks | None = None
    request_overhead_s: float = Field(default=0.0, ge=0)
    start_up_s: float = Field(gt=0)
    error: FitError | None = None

    def require_blocks(self, block_size: int, growing_groups: int) -> None:
        """Refuse a plan with other blocks: its model or its settings are others, and so are its steps.

        Raises:
            ConfigError: they differ.
        """
        if self.cache and (self.cache.block_size, self.cache.growing_groups) != (block_size, growing_groups):
            raise ConfigError(
                "--calibration",
                f"{self.name} has {counted(self.cache.growing_groups, 'growing group')} of "
                f"{self.cache.block_size}-token blocks, the plan {growing_groups} of {block_size}",
                "use a calibration of the planned model and settings",
            )

    def capacity(self) -> ReplicaCapacity:
        """The capacity of a replica.

        Raises:
            ConfigError: the file has no cache section.
        """
        if self.cache is None:
            raise ConfigError(
                f"{self.name}: cache",
                "is missing: without it the number of sequences that fit is unknown",
                "add the section",
            )
        sequences = self.engine.max_num_seqs
        # Prompt tokens per second are computed for a typical step: half of the slots decode.
        step = self.step.seconds(sequences / 2, 0, self.engine.max_num_batched_tokens)
        return ReplicaCapacity(
            max_num_seqs=sequences,
            usable_blocks=self.cache.usable_blocks,
            block_size=self.cache.block_size,
            state_blocks=self.cache.state_blocks,
            growing_groups=self.cache.growing_groups,
            prefill_tokens_per_s=self.engine.max_num_batched_tokens / step,
        )


def built_in() -> list[str]:
    """Names of the packaged calibrations."""
    return sorted(entry.name.removesuffix(".yaml") for entry in BUILT_IN.iterdir() if entry.name.endswith(".yaml"))


def load_service_times(name: str) -> ServiceTimes:
    """Load a packaged calibration by name, or a file.

    Raises:
        ConfigError: unknown, not readable, or invalid.
    """
    if name in built_in():
        return parse_service_times((BUILT_IN / f"{name}.yaml").read_text(), name)
    try:
        return parse_service_times(Path(name).read_text(), name)
    except OSError as error:
        raise ConfigError(
            "--calibration",
            f"{name!r}: {error.strerror}",
            f"use the path of a calibration file, or one of {', '.join(built_in())}",
        ) from None


def parse_service_times(text: str, where: str) -> ServiceTimes:
    """Parse the text of a calibration file.

    Raises:
        ConfigError: not YAML, or invalid.
    """
    try:
        return ServiceTimes.model_validate(yamlio.parse(text, where))
    except ValidationError as error:
        raise from_validation(error, where, "see docs/evidence/autoscaling.md for the format") from None
