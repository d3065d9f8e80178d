"""The license registry: each version of a license with its duties, and the licenses of each model.

License texts are not stored: a duty has its clause, a short quotation and fields that a program can check. `license`
and `model_license` load single entries, so that a check does not load the whole registry.
"""

import fnmatch
import hashlib
import re
import unicodedata
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybridserve import yamlio
from hybridserve.catalog.models import ResolvedModel
from hybridserve.errors import CatalogError
from hybridserve.validation import from_validation

Status = Literal["verified", "secondary", "unknown"]
"""`verified`: the primary text was reviewed; `secondary`: a quotation of it was; `unknown`: not reviewed."""
Trigger = Literal["host", "image", "derivative", "hosted_derivative"]
"""`host`: serving it to others; `image`: distributing the weights (image, archive); `derivative`: distributing a
changed copy; `hosted_derivative`: serving a changed copy."""
Term = Literal[
    "license_copy",
    "notice_line",
    "retain_notices",
    "third_party_notices",
    "mark_changes",
    "guardrail",
    "service_line",
    "use_policy",
    "policy_flow_down",
    "user_notice",
    "domicile",
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
BLOCK = 96
HEX = 6
# Markup and entities of a copy that was saved from a web page are not part of its text, nor are labels of lists that a
# browser adds: 1., 2.1., a. or (i) at the start of a line.
_VISIBLE = re.compile(
    r"(?ims)<(script|style)\b.*?</\1\s*>|</?[a-z][^<>]*>|<!--.*?-->|&(?:[a-z]+|#x?[0-9a-f]+);"
    r"|(?:^|(?<=>))[ \t]*\(?(?:[0-9]+(?:\.[0-9]+)*|[a-z]|[ivx]+)[.)](?![a-z])|(?P<text>[^<&\n]+|[<&\n])"
)
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
    counted: str | None = None
    """For user_limit: the month whose users count, the last before the release of the version."""
    non_profit: bool = False
    """For revenue_limit: non-profit organizations are exempt."""
    countries: tuple[str, ...] = ()
    """For domicile: ISO codes of the countries whose residents get no rights."""
    names: tuple[str, ...] = ()
    """Trademarks that the term names, in lower case."""
    substitute: bool = True
    """For guardrail: the model's own may be replaced by a substantially similar one."""
    only: str | None = None
    """Model family that the duty is limited to."""
    note: str | None = None


class ReviewedText(_Entry):
    """What identifies the terms of a license in a copy without storing them.

    Only letters count, in lower case, so that line breaks, typography, markup and the numbers of sections, which web
    pages lose, make no difference.
    """

    begins: str
    """First words of the terms, after the title."""
    letters: int
    """Number of letters of the terms."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """sha256 of the letters."""
    blocks: tuple[str, ...]
    """Start of the sha256 of each block of `BLOCK` letters, to find the first difference; several in one string."""

    def first_difference(self, copy: str) -> str | None:
        """Where a copy differs first from the reviewed terms, in words; None if it has them all."""
        plain, places = _letters(copy)
        blocks, begins, end = "".join(self.blocks), _letters(self.begins)[0], -1
        start = plain.find(begins)
        while start >= 0:
            terms = plain[start : start + self.letters]
            if _hash(terms) == self.sha256:
                return None
            same = 0
            while blocks[same * HEX : (same + 1) * HEX] == _hash(terms[same * BLOCK : (same + 1) * BLOCK])[:HEX]:
                same += 1
            end, start = max(end, start + same * BLOCK), plain.find(begins, start + 1)
        if end < 0:
            return f"it has no {self.begins!r}"
        if end >= len(places):
            return "it ends before the terms do"
        last = min(end + BLOCK, len(places)) - 1
        return f"it differs within {' '.join(copy[places[end] : places[last] + 1].split())!r}"


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
    text_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """sha256 of the text after `normalize`."""
    text: ReviewedText | None = None
    """Identifies the reviewed terms in a copy; None where the text was not available."""
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
    other_versions: tuple[str, ...] = ()
    """Licenses that may apply instead of the first, where the card names no version; the operator accepts one."""
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


def pinned_commit(model: ResolvedModel, source: str | None = None) -> str | None:
    """Commit of a model's facts, or the commit whose license was reviewed; None where neither is known.

    Args:
        source: where the weights come from, as `model.source`. Those of a folder or another repository have no commit.
    """
    if model.folder is not None or model.card is None or source not in (None, model.card.repository):
        return None
    known = model_license(model.id)
    return model.card.revision or (known.revision if known else None)


def normalize(text: str) -> str:
    """Normalize text for comparison: Unicode NFKC, straight quotation marks, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_STRAIGHT).split())


def text_sha256(text: str) -> str:
    """Hash of a license text that does not depend on line breaks and typography."""
    return _hash(normalize(text))


def reviewed_text(terms: str) -> ReviewedText:
    """The record of license terms that were reviewed; `terms` begins after the title."""
    plain, places = _letters(terms)
    blocks = "".join(_hash(plain[first : first + BLOCK])[:HEX] for first in range(0, len(plain), BLOCK))
    return ReviewedText(
        begins=" ".join(terms[: places[min(40, len(places) - 1)] + 1].split()),
        letters=len(plain),
        sha256=_hash(plain),
        blocks=tuple(blocks[first : first + 96] for first in range(0, len(blocks), 96)),
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _letters(text: str) -> tuple[str, list[int]]:
    """Letters of a text in lower case, without markup, and the place of each in the text."""
    letters, places = [], []
    for part in _VISIBLE.finditer(text):
        if part.lastgroup == "text":
            for place, letter in enumerate(part.group(), part.start()):
                for plain in unicodedata.normalize("NFKC", letter).casefold():
                    if plain.isalpha():
                        letters.append(plain)
                        places.append(place)
    return "".join(letters), places


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
