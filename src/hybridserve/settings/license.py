"""Section `license`: how the weights reach the machine, what ships beside them, and what the operator declares."""

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from hybridserve.settings.section import Section


class Acceptance(Section):
    """Somebody read one version of one license and answers for its terms (export, indemnity, use policy)."""

    license: str
    """Id in the registry, version included (`hybridserve explain --licenses`)."""
    by: str = Field(min_length=1)
    """Who accepted it: a person or a role, not a team's name alone."""
    accepted: date
    """When."""


class Waiver(Section):
    """A failed rule that somebody takes responsibility for, for a time."""

    rule: str
    """Id of the rule (`hybridserve explain`)."""
    subject: str | None = None
    """Only findings about this subject; empty waives the rule wherever it fails."""
    by: str = Field(min_length=1)
    """Who waived it."""
    reason: str = Field(min_length=10)
    """Why it is acceptable, in a sentence."""
    until: date
    """Last day it holds."""


class LicenseSection(Section):
    """Delivery of the weights, the attribution that ships, and the operator's declarations."""

    weights: Literal["baked", "pulled", "mounted"] = "mounted"
    """How the weights are delivered. Only `baked` (inside an image) counts as handing them on."""
    derivative: bool = False
    """The weights were changed (fine-tuned, quantised) and are handed on or served as a model of their own."""
    image: str | None = None
    """Image that will run, pinned by digest (registry/name@sha256:...)."""
    bundle: Path | None = None
    """Folder with NOTICE and the license copies that ship with the weights (`hybridserve notice` makes it)."""
    about: Path | None = None
    """Page users see (text, Markdown or HTML): lines such as Built with Llama are looked for here."""
    terms_of_use: Path | None = None
    """Your terms of service as text: use policies that must be passed on are looked for here by their address."""
    accepted: tuple[Acceptance, ...] = ()
    """Licenses somebody accepted, by version."""
    annual_revenue_usd: int | None = Field(default=None, ge=0)
    """The operator's revenue, where a license sets a limit."""
    monthly_users: int | None = Field(default=None, ge=0)
    """Users of the operator's products a month, where a license sets a limit."""
    commercial: tuple[str, ...] = ()
    """Ids of licenses that a separate agreement with the licensor replaces in what they limit."""
    pinned_files: dict[str, str] = Field(default_factory=dict)
    """sha256 of the model's chat template, tokenizer and generation config, where the registry does not know them."""
    max_review_age_days: int = Field(default=180, ge=1)
    """How old the reading and the acceptance of a license may be."""
    waivers: tuple[Waiver, ...] = ()
    """Failed rules somebody takes responsibility for."""
    waivers_file: Path | None = None
    """YAML list of waivers kept apart from the configuration."""

    @field_validator("pinned_files")
    @classmethod
    def _hashes(cls, value: dict[str, str]) -> dict[str, str]:
        for name, digest in value.items():
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ValueError(f"{name} is not a sha256 in lower-case hex")
        return value
