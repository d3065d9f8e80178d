"""The license registry: complete entries, short quotations, and an entry for every model of the catalog."""

from __future__ import annotations

import hashlib
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
    text_sha256,
)
from hybridserve.catalog.models import load_card, model_ids
from hybridserve.compliance.rules.guard import behavior_files, guard_format
from hybridserve.errors import CatalogError

REQUIRED_FIELDS = {
    "notice_line": "line",
    "service_line": "line",
    "policy_flow_down": "policy",
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
    assert entry.repository in (None, load_card(model).repository)
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
