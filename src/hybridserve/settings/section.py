"""The base of every section: unknown keys are refused, values are frozen once loaded."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of the settings tree."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )
