"""Base of all sections: unknown keys are refused, values are immutable."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of the settings tree."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )
