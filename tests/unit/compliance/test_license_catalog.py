"""The registry as data: whole, quotable, and without anybody's text."""

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


@pytest.mark.parametrize("name", license_ids())
def test_an_entry_is_whole(name: str) -> None:
    one = license(name)
    assert one.url.startswith("https://")
    assert date(2026, 1, 1) < one.read <= date(2026, 12, 31)
    if one.status == "unknown":
        assert one.obligations == ()
        return
    assert one.markers
    assert one.obligations
    for duty in one.obligations:
        assert duty.when
        assert duty.quote is None or 1 < len(duty.quote.split()) < 25
        needs = {"notice_line": "line", "service_line": "line", "policy_flow_down": "policy", "name_prefix": "names",
                 "trademark": "names", "revenue_limit": "limit", "user_limit": "limit"}  # fmt: skip
        if duty.term in needs:
            assert getattr(duty, needs[duty.term])


def test_no_entry_holds_a_license_text() -> None:
    for name in license_ids():
        quoted = sum(len((duty.quote or "").split()) for duty in license(name).obligations)
        assert quoted < 150


@pytest.mark.parametrize("model", model_ids())
def test_every_model_of_the_catalogue_is_recorded(model: str) -> None:
    entry = model_license(model)
    assert entry is not None
    assert entry.repository in (None, load_card(model).repository)
    assert all(license(one).status != "unknown" for one in entry.licenses)


@pytest.mark.parametrize("model", licensed_models())
def test_every_entry_names_known_licenses_and_a_source(model: str) -> None:
    entry = model_license(model)
    assert entry is not None
    assert entry.source
    for one in entry.licenses:
        license(one)
    if entry.guard and not model.startswith("shieldgemma"):
        assert guard_format(model) is not None


def test_a_model_is_found_by_repository_and_an_unknown_one_is_not() -> None:
    found = model_license("nvidia/NVIDIA-Nemotron-Nano-9B-v2")
    assert found is not None
    assert found.id == "nemotron-nano-9b-v2"
    assert model_license("someone/else") is None
    with pytest.raises(CatalogError, match="not in the license registry"):
        license("gpl-9")


@pytest.mark.parametrize(
    ("version", "has_clause", "substitute"),
    [
        ("nvidia-open-model-2024-06-14", False, None),
        ("nvidia-open-model-2025-01-06", True, False),
        ("nvidia-open-model-2025-04-28", True, False),
        ("nvidia-open-model-2025-10-24", True, True),
        ("nvidia-nemotron-open-model-2025-12-15", False, None),
        ("nvidia-open-model-agreement-2026-03-09", False, None),
        ("openmdw-1.1", False, None),
    ],
)
def test_the_guardrail_clause_by_version(version: str, has_clause: bool, substitute: bool | None) -> None:
    duties = license(version).terms("guardrail")
    assert bool(duties) is has_clause
    if duties:
        assert duties[0].substitute is substitute


def test_only_guards_on_llama_and_gemma_bind_a_host_to_show_or_pass_on() -> None:
    hosted = {
        name
        for name in license_ids()
        for duty in license(name).obligations
        if duty.term in ("service_line", "policy_flow_down") and "host" in duty.when and duty.only is None
    }
    assert hosted == {"llama-3.1", "llama-4", "gemma-2025-03-24"}


def test_normalisation_forgives_typography_only() -> None:
    assert normalize("“Built\n with ’Llama’”") == "\"Built with 'Llama'\""
    assert text_sha256("a  b\n") == text_sha256("a b")
    assert text_sha256("a b") != text_sha256("a c")


def test_the_demo_models_files_are_the_recorded_ones() -> None:
    """After training it anew: `hybridserve check --pins` prints what belongs into model_licenses.yaml."""
    entry = model_license("demo")
    assert entry is not None
    folder = Path(hybridserve.__file__).parent / "demo_model"
    present = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*") if path.is_file()}
    assert behavior_files(present) == entry.files
