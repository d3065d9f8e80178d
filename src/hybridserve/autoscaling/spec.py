"""What the operator asks of the law. Everything else it takes from the plan or from what it sees."""

from __future__ import annotations

from dataclasses import dataclass

from hybridserve.autoscaling.capacity import ReplicaCapacity
from hybridserve.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSpec:
    """Bounds, goals and the facts of one deployment.

    Attributes:
        capacity: of one replica, from the plan.
        min_replicas, max_replicas: bounds that always hold; a minimum of 0 allows scale to zero.
        start_up_s: from asking for a replica until it takes requests.
        ttft_s: time to first token that is still good, for a prompt of no length.
        ttft_per_prompt_token_s: what each prompt token may add to it.
        inter_token_s: mean time between the tokens of an answer that is still good; None for no such promise.
        attainment: share of requests that shall see it.
        idle_s: without any request for this long, go to zero (only with a minimum of 0).
        stale_s: a reading older than this counts as silence.
        memory_s: how long a surprise is remembered: bursts that come at least this often are provided for.
        calendar_s: how far back demand is kept to find what comes back; rounds of up to half of it can be found.
        max_up_factor: at most this many times the ready replicas in one decision. It bounds a wrong reading, so it is
            large: a flash crowd may need ten times the fleet at once.
        max_down_share: at most this share of the replicas is given back in one decision.
    """

    capacity: ReplicaCapacity
    min_replicas: int = 1
    max_replicas: int = 1
    start_up_s: float = 60.0
    ttft_s: float = 2.0
    ttft_per_prompt_token_s: float = 0.0
    inter_token_s: float | None = None
    attainment: float = 0.99
    idle_s: float = 300.0
    stale_s: float = 10.0
    memory_s: float = 3600.0
    calendar_s: float = 8 * 86400.0
    max_up_factor: float = 10.0
    max_down_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise ConfigError(
                "scaling.min_replicas",
                f"bounds {self.min_replicas} to {self.max_replicas} are impossible",
                "0 <= min_replicas <= max_replicas, and max_replicas at least 1",
            )
        for name in ("start_up_s", "ttft_s", "idle_s", "stale_s", "memory_s", "calendar_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"scaling.{name}", f"{getattr(self, name)} is not positive", "give it in seconds")
        if self.inter_token_s is not None and not self.inter_token_s > 0:
            raise ConfigError("scaling.inter_token_s", f"{self.inter_token_s} is not positive", "give it in seconds")
        if not 0.5 <= self.attainment < 1:
            raise ConfigError("scaling.attainment", f"{self.attainment} is not in 0.5 to 1", "0.99 is 99 of 100")
        if not self.max_up_factor > 1 or not 0 < self.max_down_share <= 1:
            raise ConfigError(
                "scaling.max_up_factor",
                f"rate limits {self.max_up_factor} up and {self.max_down_share} down would freeze the fleet",
                "a factor above 1, and a share above 0 and at most 1",
            )
