"""Accelerators: complete and dated facts, and errors."""

from __future__ import annotations

import pytest

from hybridserve.catalog.accelerators import accelerator, accelerators
from hybridserve.errors import CatalogError


def test_every_accelerator_is_listed_once():
    ids = [entry.id for entry in accelerators()]
    assert len(ids) == len(set(ids))
    assert set(ids) >= {"a10g", "l4", "l40s", "a100-40gb", "a100-80gb", "h100", "h200", "b200", "rtx-6000-ada", "cpu"}


@pytest.mark.parametrize("entry", accelerators(), ids=lambda entry: entry.id)
def test_accelerator_facts_have_a_source_and_are_consistent(entry):
    for facts in (entry.memory, entry.bandwidth, entry.compute):
        assert facts.source
        assert facts.read.year >= 2026
        assert set(facts.uncertain) <= set(type(facts).model_fields)
    if entry.id in ("cpu", "generic"):
        assert entry.memory_bytes is None
        return
    assert entry.memory.mib <= entry.memory.highest_mib
    # A reported total is a little below the number on the box, never above it.
    on_the_box = {
        "a10g": 24,
        "l4": 24,
        "l40s": 48,
        "rtx-6000-ada": 48,
        "a100-40gb": 40,
        "a100-80gb": 80,
        "h100": 80,
        "h200": 141,
        "b200": 180,
        "t4": 16,
        "a10": 24,
        "rtx-3090": 24,
        "rtx-4090": 24,
        "rtx-5090": 32,
        "rtx-a6000": 48,
        "rtx-pro-6000": 96,
        "gb10": 128,
        "h100-nvl": 94,
        "h20": 96,
        "gh200": 96,
        "gb200": 186,
        "b300": 270,
        "gb300": 279,
        "v100": 32,
        "mi300x": 192,
        "mi325x": 256,
    }[entry.id]
    assert 0.9 * on_the_box * 1024 < entry.memory.mib < on_the_box * 1024 * 1.02
    assert (entry.compute.fp8_tflops is None) == (float(entry.compute_capability) < 8.9)


@pytest.mark.parametrize("name", ["H100", "NVIDIA H100 80 GB SXM", "h100"])
def test_accelerator_name_variants(name):
    assert accelerator(name).id == "h100"


@pytest.mark.parametrize(("name", "near"), [("a100", "a100-40gb or a100-80gb"), ("l40", "l40s"), ("h2", "h200 or h20")])
def test_unknown_accelerator_error_lists_ids(name, near):
    with pytest.raises(CatalogError) as caught:
        accelerator(name)
    assert f"did you mean {near}?" in caught.value.fix
    assert "rtx-6000-ada" in caught.value.fix
