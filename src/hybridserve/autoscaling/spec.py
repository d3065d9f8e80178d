"""What the scaling policy needs to know: the settings, and the capacity of one replica."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from hybridserve.autoscaling.capacity import ReplicaCapacity
from hybridserve.settings.scaling import ScalingSection


class ScalingSpec(ScalingSection):
    """Section `scaling` of the settings with the facts of one deployment. ``model_dump`` makes it plain data."""

    capacity: ReplicaCapacity
    """Of one replica, from the plan."""
    max_up_factor: float = Field(default=10.0, gt=1)
    """At most this many times the ready replicas in one decision. It limits the effect of a wrong metric, so it is
    large: a flash crowd may need ten times the fleet at once."""
    max_down_share: float = Field(default=0.5, gt=0, le=1)
    """At most this share of the replicas is removed in one decision."""

    def with_limits(self, min_replicas: int, max_replicas: int) -> Self:
        """The same with other limits.

        Raises:
            ValidationError: impossible limits.
        """
        return self.model_validate({**dict(self), "min_replicas": min_replicas, "max_replicas": max_replicas})
