"""Section `scaling`: how many replicas."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from hybridserve.settings.section import Section


class ScalingSection(Section):
    """Number of replicas."""

    min_replicas: int = Field(default=1, ge=0)
    """Replicas that always run; 0 allows scale to zero."""
    max_replicas: int = Field(default=1, ge=1)
    """Most replicas at once."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self
