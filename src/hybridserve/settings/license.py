"""Section `license`: how the weights are delivered, the files that ship with them, and the operator's declarations."""

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from hybridserve.settings.section import Section
from hybridserve.validation import refused


def _names_somebody(value: str) -> str:
    if not any(map(str.isalnum, value)):  # invisible characters, or dots
        raise refused(f"{value!r} is no name", "write the name of a person or of a role")
    return value


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_names_somebody)]
_WORD = re.compile(r"[^\W\d_]{2,}")


class Acceptance(Section):
    """A person read one version of one license and accepts its terms (export, indemnity, use policy)."""

    license: str
    """Id in the registry, version included (`hybridserve explain --licenses`)."""
    by: Name
    """Who accepted it: a person or a role, not only a team."""
    accepted: date
    """Date of the acceptance."""
    obtained: date | None = None
    """When the weights were obtained, for a model whose card names no version of its license."""


class Waiver(Section):
    """A failed rule that a person takes responsibility for, for a limited time."""

    rule: str
    """Id of the rule (`hybridserve explain`)."""
    subject: str | None = None
    """Waive only findings about this subject. Empty: all findings of the rule."""
    by: Name
    """Who granted the waiver."""
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=10)]
    """Why the failure is acceptable, in at least three words."""
    until: date
    """Last day on which it is valid, at most a year ahead."""

    @field_validator("reason")
    @classmethod
    def _words(cls, value: str) -> str:
        if len(set(_WORD.findall(value.casefold()))) < 3:
            raise refused(
                f"{value!r} has fewer than three different words", "give the reason in at least three different words"
            )
        return value


class LicenseSection(Section):
    """Delivery of the weights, attribution files, and the operator's declarations."""

    weights: Literal["baked", "pulled", "mounted"] = "mounted"
    """How the weights are delivered. Only `baked` (inside an image) counts as distribution."""
    derivative: bool = False
    """The weights were changed (fine-tuned, quantized) and are distributed or served as a separate model."""
    image: str | None = None
    """The image to run, pinned by digest (registry/name@sha256:...)."""
    bundle: Path | None = None
    """Folder with NOTICE and the license copies that ship with the weights (`hybridserve notice` creates it)."""
    about: Path | None = None
    """Page that users see (text, Markdown or HTML). It must contain lines such as Built with Llama."""
    terms_of_use: Path | None = None
    """Your terms of service as text. They must contain the address of each use policy that must be passed on."""
    accepted: tuple[Acceptance, ...] = ()
    """Accepted licenses, by version."""
    annual_revenue_usd: int | None = Field(default=None, ge=0)
    """The operator's annual revenue, for licenses with a revenue limit."""
    monthly_users: int | None = Field(default=None, ge=0)
    """Monthly users of the operator's products, for licenses with a user limit: in the month before the release of the
    license's version, which `hybridserve check` names."""
    non_profit: bool = False
    """The operator is a non-profit organization, which some licenses exempt from their revenue limit."""
    domicile: str | None = Field(default=None, pattern="^[A-Z]{2}$")
    """Country of the operator's principal place of business (ISO 3166, such as DE), for licenses that exclude some."""
    commercial: tuple[str, ...] = ()
    """Ids of licenses whose limits are replaced by a separate agreement with the licensor."""
    pinned_files: dict[str, str] = Field(default_factory=dict)
    """sha256 of the model's chat template, tokenizer and generation config, for files whose hash the registry lacks. A
    hash of the registry cannot be replaced. Shards of the weights named here are hashed at every start and check."""
    max_review_age_days: int = Field(default=180, ge=1, le=366)
    """Maximum age of the review and of the acceptance of a license."""
    recheck_interval_s: float = Field(default=3600.0, ge=1, le=86_400)
    """Interval in which a running service repeats the compliance checks."""
    grace_days: int = Field(default=7, ge=0, le=30)
    """Days for which a running service goes on after a check begins to fail: a waiver, an acceptance, a review or
    evidence has ended, or a file or the guard has changed. Then it rejects requests."""
    waivers: tuple[Waiver, ...] = ()
    """Failed rules that a person takes responsibility for."""
    waivers_file: Path | None = None
    """YAML file with a list of further waivers."""

    @field_validator("pinned_files")
    @classmethod
    def _hashes(cls, value: dict[str, str]) -> dict[str, str]:
        for name, digest in value.items():
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise refused(f"{name}: {digest!r} is no sha256", "copy what `hybridserve check --pins` prints")
        return value
