"""Section `scaling`: number of replicas and scaling policy."""

from typing import Literal, Self

from pydantic import Field, model_validator

from hybridserve.settings.section import Section
from hybridserve.settings.slo import LatencySLO
from hybridserve.validation import refused


class ScalingSection(Section):
    """Number of replicas. Limits and Ray Serve's own delays change in place; any other value restarts replicas."""

    min_replicas: int = Field(default=1, ge=0)
    """Replicas that always run; 0 allows scale to zero."""
    max_replicas: int = Field(default=1, ge=1)
    """Highest number of replicas."""
    policy: Literal["hybrid", "queue_length"] = "hybrid"
    """`hybrid` counts state slots, KV blocks and prompt tokens; `queue_length` is Ray Serve's own policy."""
    dry_run: bool = False
    """Only log decisions and keep the number of replicas (policy `hybrid`)."""
    start_up_s: float = Field(default=60.0, gt=0)
    """Seconds from requesting a replica until it accepts requests. Decisions look this far ahead."""
    ttft_s: float = Field(default=2.0, gt=0)
    """Target for the time to first token of an empty prompt, in seconds."""
    ttft_per_prompt_token_s: float = Field(default=0.0, ge=0)
    """Seconds that each prompt token may add to it."""
    inter_token_s: float | None = Field(default=None, gt=0)
    """Target for the mean time per output token, in seconds; empty: prefill may slow answers without limit."""
    attainment: float = Field(default=0.99, ge=0.5, lt=1)
    """Share of requests that must meet these targets."""
    refuse_late: bool = False
    """Refuse a request with 429 and `Retry-After` when its first token is expected after its target, so that the
    admitted ones keep theirs. Refused requests count as demand of the policy."""
    idle_s: float = Field(default=300.0, gt=0)
    """Seconds without any request before scaling to zero; only with min_replicas 0."""
    stale_s: float = Field(default=10.0, gt=0)
    """Metrics of a replica older than this many seconds count as missing, and then nothing is scaled down."""
    memory_s: float = Field(default=3600.0, gt=0)
    """Seconds that bursts are remembered: capacity is reserved for bursts that repeat at least this often."""
    calendar_s: float = Field(default=8 * 86400.0, gt=0)
    """Seconds of arrivals kept to find seasonal load; periods of up to half of it can be found."""
    prefill_tokens_per_s: float | None = Field(default=None, gt=0)
    """Prompt tokens that a replica computes per second, as measured by `make calibrate`; empty: no limit."""
    target_ongoing_requests: float | None = Field(default=None, gt=0)
    """Policy `queue_length`: target of ongoing requests per replica; empty: three quarters of max_num_seqs."""
    upscale_delay_s: float = Field(default=5.0, ge=0)
    """Policy `queue_length`: seconds that a higher number must be wanted before scaling up."""
    downscale_delay_s: float = Field(default=120.0, ge=0)
    """Policy `queue_length`: seconds that a lower number must be wanted before scaling down."""

    @property
    def slo(self) -> LatencySLO:
        """The targets of one request."""
        return LatencySLO(self.ttft_s, self.inter_token_s, ttft_per_prompt_token_s=self.ttft_per_prompt_token_s)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            what = f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}"
            fix = f"set scaling.max_replicas to {self.min_replicas} or more"
            raise refused(
                what, f"{fix}, or scaling.min_replicas to {self.max_replicas} or less", "min_replicas", "max_replicas"
            )
        return self
