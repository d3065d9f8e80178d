"""The license registry: complete entries, short quotations, and an entry for every model of the catalog."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from datetime import date
from pathlib import Path

import pytest

import hybridserve
from hybridserve.catalog.licenses import (
    license,
    license_ids,
    licensed_models,
    model_license,
    normalize,
    reviewed_text,
    text_sha256,
)
from hybridserve.catalog.models import load_card, model_ids
from hybridserve.compliance.rules.guard import behavior_files, guard_format
from hybridserve.errors import CatalogError
from support.compliance_cases import ROOT

REQUIRED_FIELDS = {
    "notice_line": "line",
    "service_line": "line",
    "policy_flow_down": "policy",
    "user_notice": "policy",
    "domicile": "countries",
    "name_prefix": "names",
    "trademark": "names",
    "revenue_limit": "limit",
    "user_limit": "limit",
}


@pytest.mark.parametrize("name", license_ids())
def test_license_entry_is_complete_and_quotes_little(name: str) -> None:
    entry = license(name)
    assert entry.url.startswith("https://")
    assert date(2026, 1, 1) < entry.read <= date(2026, 12, 31)
    reviewed = entry.status != "unknown"
    assert bool(entry.obligations) == reviewed
    assert bool(entry.markers) or not reviewed
    for duty in entry.obligations:
        assert duty.when
        assert duty.quote is None or 1 < len(duty.quote.split()) < 25
        assert duty.term not in REQUIRED_FIELDS or getattr(duty, REQUIRED_FIELDS[duty.term])
    assert sum(len((duty.quote or "").split()) for duty in entry.obligations) < 150


@pytest.mark.parametrize("model", model_ids())
def test_every_model_of_the_catalog_has_a_reviewed_license(model: str) -> None:
    entry = model_license(model)
    assert entry is not None
    assert entry.repository is None or fnmatch.fnmatchcase(str(load_card(model).repository), entry.repository)
    assert all(license(license_id).status != "unknown" for license_id in entry.licenses)


@pytest.mark.parametrize("model", licensed_models())
def test_every_model_entry_names_known_licenses_and_a_source(model: str) -> None:
    entry = model_license(model)
    assert entry is not None
    assert entry.source
    assert all(license(license_id) for license_id in entry.licenses)
    if entry.guard and not model.startswith("shieldgemma"):
        assert guard_format(model) is not None


def test_model_is_found_by_repository() -> None:
    found = model_license("nvidia/NVIDIA-Nemotron-Nano-9B-v2")
    assert found is not None
    assert found.id == "nemotron-nano-9b-v2"


def test_unknown_model_and_license() -> None:
    assert model_license("someone/else") is None
    with pytest.raises(CatalogError, match="not in the license registry"):
        license("gpl-9")


@pytest.mark.parametrize(
    ("version", "substitutes"),
    [
        ("nvidia-open-model-2024-06-14", []),
        ("nvidia-open-model-2025-01-06", [False]),
        ("nvidia-open-model-2025-04-28", [False]),
        ("nvidia-open-model-2025-09-23", [True]),
        ("nvidia-open-model-2025-10-24", [True]),
        ("nvidia-nemotron-open-model-2025-12-15", []),
        ("nvidia-open-model-agreement-2026-03-09", []),
        ("openmdw-1.1", []),
    ],
)
def test_guardrail_clause_by_license_version(version: str, substitutes: list[bool]) -> None:
    assert [duty.substitute for duty in license(version).terms("guardrail")] == substitutes


def test_only_llama_and_gemma_licenses_have_attribution_duties_for_hosts() -> None:
    hosted = {
        name
        for name in license_ids()
        for duty in license(name).obligations
        if duty.term in ("service_line", "policy_flow_down") and "host" in duty.when and duty.only is None
    }
    assert hosted == {"llama-3.1", "llama-4", "gemma-2025-03-24"}


def test_normalization_ignores_only_typography() -> None:
    assert normalize("“Built\n with ’Llama’”") == "\"Built with 'Llama'\""
    assert text_sha256("a  b\n") == text_sha256("a b")
    assert text_sha256("a b") != text_sha256("a c")


def test_recorded_hashes_match_the_demo_model() -> None:
    """After retraining, `hybridserve check --pins` prints the hashes for model_licenses.yaml."""
    entry = model_license("demo")
    assert entry is not None
    folder = Path(hybridserve.__file__).parent / "demo_model"
    present = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*") if path.is_file()}
    assert behavior_files(present) == entry.files


APACHE = (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("copy", "difference"),
    [
        (APACHE, None),
        ("Last modified: today\n\n" + APACHE.upper() + "\nsome other text", None),
        ("<html><style>p {}</style><p>" + APACHE.replace("\n\n", "</p>\n<p>").replace('"', "&quot;") + "</html>", None),
        (re.sub(r"(?m)^ +[0-9]+\. ", "", APACHE), None),
        (APACHE.replace("irrevocable", "revocable", 1), "it differs within"),
        (APACHE.replace("You must give any other recipients of the Work", ""), "it differs within"),
        (APACHE[: len(APACHE) // 2], "it differs within"),
        ("Apache License, Version 2.0, January 2004", "it has no 'TERMS AND CONDITIONS"),
    ],
)
def test_license_copy_is_compared_with_the_reviewed_terms(copy: str, difference: str | None) -> None:
    text = license("apache-2.0").text
    assert text is not None
    found = text.first_difference(copy)
    assert found is None if difference is None else found is not None and found.startswith(difference)


def test_first_difference_quotes_the_words_of_the_copy() -> None:
    text = reviewed_text("These are the terms of a license. " + "Nobody may do anything at all with it. " * 20)
    changed = (
        "These are the terms of a license. " + "Nobody may do anything at all with it. " * 9 + "Everybody may. " * 11
    )
    assert text.first_difference(text.begins) is not None
    assert "Everybody may" in (text.first_difference(changed) or "")
