"""The license registry: each version of a license with its duties, and the licenses of each model.

License texts are not stored: a duty has its clause, a short quotation and fields that a program can check. `license`
and `model_license` load single entries, so that a check does not load the whole registry.
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
"""`verified`: the primary text was reviewed; `secondary`: a quotation of it was; `unknown`: not reviewed."""
Trigger = Literal["host", "image", "derivative"]
"""`host`: serving it to others; `image`: distributing the weights (image, archive); `derivative`: a changed copy."""
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
    """Exact text to show or to put into NOTICE."""
    policy: str | None = None
    """Address of a use policy."""
    limit: int | None = None
    """Annual revenue in US dollars, or monthly users, up to which the grant applies."""
    names: tuple[str, ...] = ()
    """Trademarks that the term names, in lower case."""
    substitute: bool = True
    """For guardrail: the model's own may be replaced by a substantially similar one."""
    only: str | None = None
    """Model family that the duty is limited to."""
    note: str | None = None


class License(_Entry):
    """One version of one license."""

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
    """Approximate number of words of the text: a much shorter copy is not complete."""
    text_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """sha256 of the text after `normalize`."""
    obligations: tuple[Obligation, ...]
    note: str | None = None

    def terms(self, term: Term) -> tuple[Obligation, ...]:
        """The duties of one kind, in the order of the license."""
        return tuple(duty for duty in self.obligations if duty.term == term)


class ModelLicense(_Entry):
    """The licenses of a model, and the files that determine its behavior."""

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
    context: int | None = None
    """Longest input in tokens, of guard models."""
    files: Mapping[str, str] = {}
    note: str | None = None


def license_ids() -> tuple[str, ...]:
    """Ids of all licenses, sorted. Only file names are read."""
    return tuple(sorted(path.stem for path in (_FOLDER / "licenses").glob("*.yaml")))


@cache
def license(license_id: str) -> License:
    """One license.

    Raises:
        CatalogError: there is no such entry, or its file is broken.
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
    """The entry of a model by catalog id or Hugging Face repository; None where there is none."""
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
    """Normalize text for comparison: Unicode NFKC, straight quotation marks, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_STRAIGHT).split())


def text_sha256(text: str) -> str:
    """Hash of a license text that does not depend on line breaks and typography."""
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
