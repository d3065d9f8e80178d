"""Section `scaling`: how many replicas, and by which policy."""

from typing import Literal, Self

from pydantic import Field, model_validator

from hybridserve.settings.section import Section


class ScalingSection(Section):
    """Number of replicas. Bounds and the stock policy's delays change in place; any other value restarts replicas."""

    min_replicas: int = Field(default=1, ge=0)
    """Replicas that always run; 0 allows scale to zero."""
    max_replicas: int = Field(default=1, ge=1)
    """Most replicas at once."""
    policy: Literal["hybrid", "queue_length"] = "hybrid"
    """`hybrid` counts state slots, KV blocks and prompt tokens; `queue_length` is Ray Serve's stock policy."""
    dry_run: bool = False
    """Decide and say so in the log, but leave the number of replicas as it is (policy `hybrid`)."""
    start_up_s: float = Field(default=60.0, gt=0)
    """Seconds from asking for a replica until it takes requests. Decisions look this far ahead."""
    ttft_s: float = Field(default=2.0, gt=0)
    """Time to first token that is still good, for a prompt of no length."""
    ttft_per_prompt_token_s: float = Field(default=0.0, ge=0)
    """What each prompt token may add to it."""
    inter_token_s: float | None = Field(default=None, gt=0)
    """Mean time between the tokens of an answer that is still good; empty: prompts may slow answers as they like."""
    attainment: float = Field(default=0.99, ge=0.5, lt=1)
    """Share of requests that shall see these times."""
    idle_s: float = Field(default=300.0, gt=0)
    """Without any request for so long, go to zero; only with min_replicas 0."""
    stale_s: float = Field(default=10.0, gt=0)
    """A reading older than this is silence, and silence never takes a replica away."""
    memory_s: float = Field(default=3600.0, gt=0)
    """How long bursts are remembered: room is kept for those that come at least this often."""
    calendar_s: float = Field(default=8 * 86400.0, gt=0)
    """How far back arrivals are kept to find what comes back by the clock; rounds of up to half of it are found."""
    prefill_tokens_per_s: float | None = Field(default=None, gt=0)
    """Prompt tokens a replica computes per second, as `make calibrate` measures them; empty: prefill is no limit."""
    target_ongoing_requests: float | None = Field(default=None, gt=0)
    """Policy `queue_length`: requests a replica shall have; three quarters of max_num_seqs when empty."""
    upscale_delay_s: float = Field(default=5.0, ge=0)
    """Policy `queue_length`: a larger number must be wanted for so long."""
    downscale_delay_s: float = Field(default=120.0, ge=0)
    """Policy `queue_length`: a smaller number must be wanted for so long."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self
