"""Licenses as data: instruments by version with their duties, and which model is under which.

No license's text is stored: a duty has its clause, a short quotation and what a machine can check. `license` and
`model_license` read single entries, so that a check does not pay for the whole registry.
"""

import fnmatch
import hashlib
import unicodedata
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybridserve import yamlio
from hybridserve.errors import CatalogError, from_validation

Status = Literal["verified", "secondary", "unknown"]
"""`verified`: the primary text was read; `secondary`: someone's quotation of it; `unknown`: not read."""
Trigger = Literal["host", "image", "derivative"]
"""`host`: serving it to others; `image`: handing on the weights (an image, a tarball); `derivative`: a changed copy."""
Term = Literal[
    "license_copy",
    "notice_line",
    "retain_notices",
    "mark_changes",
    "guardrail",
    "service_line",
    "use_policy",
    "policy_flow_down",
    "update_watch",
    "special_purpose",
    "revenue_limit",
    "user_limit",
    "name_prefix",
    "trademark",
    "litigation",
    "indemnity",
    "export_control",
]

_FOLDER = Path(__file__).parent
_Model = TypeVar("_Model", bound=BaseModel)
_STRAIGHT = str.maketrans({"“": '"', "”": '"', "’": "'", "‘": "'"})


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class Obligation(_Entry):
    """One duty of a license."""

    term: Term
    when: tuple[Trigger, ...]
    clause: str
    quote: str | None = None
    """Under 25 words, from the text named in the license's `source`."""
    line: str | None = None
    """Exact words to show or to put into NOTICE."""
    policy: str | None = None
    """Address of a use policy."""
    limit: int | None = None
    """Revenue in US dollars, or users a month, up to which the grant holds."""
    names: tuple[str, ...] = ()
    """Brands the term speaks of, in lower case."""
    substitute: bool = True
    """guardrail: a substantially similar one may take the place of the model's own."""
    only: str | None = None
    """Family the duty is limited to."""
    note: str | None = None


class License(_Entry):
    """One version of one instrument."""

    id: str
    instrument: str
    """`license_name` of a Hugging Face card."""
    version: str
    title: str
    licensor: str
    spdx: str
    url: str
    source: str
    read: date
    status: Status
    revocable: bool = False
    markers: tuple[str, ...] = ()
    """Phrases that a copy of this version contains."""
    words: int | None = None
    """About how many words the text has: a copy that is much shorter is not whole."""
    text_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """sha256 of the text after `normalize`."""
    obligations: tuple[Obligation, ...]
    note: str | None = None

    def terms(self, term: Term) -> tuple[Obligation, ...]:
        """The duties of one kind, in the license's order."""
        return tuple(duty for duty in self.obligations if duty.term == term)


class ModelLicense(_Entry):
    """What a model is under, and the files its behaviour hangs on."""

    id: str
    repository: str | None
    licenses: tuple[str, ...]
    revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
    source: str
    read: date
    status: Status
    guard: bool = False
    reasoning: bool = False
    """The model writes reasoning before its answer."""
    family: str | None = None
    special_purpose: bool = False
    files: Mapping[str, str] = {}
    note: str | None = None


def license_ids() -> tuple[str, ...]:
    """Ids of all licenses, sorted. Reads file names only."""
    return tuple(sorted(path.stem for path in (_FOLDER / "licenses").glob("*.yaml")))


@cache
def license(license_id: str) -> License:
    """One license.

    Raises:
        CatalogError: no such entry, or a broken file.
    """
    path = _FOLDER / "licenses" / f"{license_id}.yaml"
    if not path.is_file():
        raise CatalogError(
            f"licenses/{license_id}", "is not in the license registry", f"known: {', '.join(license_ids())}"
        )
    return _parse(License, {"id": license_id, **_read(path)}, f"licenses/{path.name}")


@cache
def _entries() -> Mapping[str, Mapping[str, Any]]:
    models: Mapping[str, Mapping[str, Any]] = _read(_FOLDER / "model_licenses.yaml")["models"]
    return models


def licensed_models() -> tuple[str, ...]:
    """Ids (and patterns of families) of all models whose license is recorded."""
    return tuple(_entries())


def model_license(model: str) -> ModelLicense | None:
    """The entry of a model, by catalogue id or Hugging Face repository; None when nothing is recorded for it."""
    entries = _entries()
    found = model if model in entries else None
    if found is None:
        found = next((name for name, entry in entries.items() if entry["repository"] == model), None)
    if found is None:
        found = next((name for name in entries if name.endswith("*") and fnmatch.fnmatchcase(model, name)), None)
    if found is None:
        return None
    return _parse(ModelLicense, {**entries[found], "id": model if found.endswith("*") else found}, f"models.{found}")


def normalize(text: str) -> str:
    """Text for comparison: Unicode NFKC, straight quotation marks, one space between words."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_STRAIGHT).split())


def text_sha256(text: str) -> str:
    """Hash of a license's text that survives line breaks and typography."""
    return hashlib.sha256(normalize(text).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    tree = yamlio.read(path, path.name, kind=CatalogError)
    if not isinstance(tree, dict):
        raise CatalogError(path.name, "is not a mapping", "correct the file")
    return tree


def _parse(kind: type[_Model], tree: Mapping[str, Any], where: str) -> _Model:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise from_validation(error, where, "correct the entry", CatalogError) from None
