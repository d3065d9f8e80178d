"""The calibration file."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.errors import ConfigError
from hybridserve.planning.deployment import plan_deployment, profiled_settings
from hybridserve.planning.memory.profile import digest, read_memory_profile, record
from support.planned_models import NANO_9B, deployment_of

DAY = date(2026, 11, 23)


def test_recorded_start_makes_the_next_pool_known():
    asked = deployment_of(NANO_9B, "a10g", max_num_seqs=8, max_model_len=32768)
    first = plan_deployment(asked)
    assert first.budget.confidence == "estimate"
    profiled = first.budget.kv - 123_456_789
    text = record(
        "",
        model="model",
        accelerator="a10g",
        settings=profiled_settings(first.deployment),
        kv_bytes=profiled,
        read=DAY,
    )
    second = plan_deployment(
        deployment_of(NANO_9B, "a10g", max_num_seqs=8, max_model_len=32768, calibration=read_memory_profile(text))
    )
    assert second.budget.confidence == "known"
    assert second.budget.kv == profiled
    assert second.cache is not None
    assert second.cache.num_blocks == profiled // second.layout.bytes_per_block


def test_other_settings_do_not_match():
    asked = deployment_of(NANO_9B, "a10g", max_num_seqs=8)
    settings = profiled_settings(plan_deployment(asked).deployment)
    calibration = read_memory_profile(
        record("", model="model", accelerator="a10g", settings=settings, kv_bytes=1 << 31, read=DAY)
    )
    assert calibration.find("model", "a10g", settings) is not None
    assert calibration.find("model", "l4", settings) is None
    assert calibration.find("other", "a10g", settings) is None
    assert calibration.find("model", "a10g", {**settings, "max_num_seqs": 16}) is None


def test_second_start_replaces_the_entry_with_the_same_settings():
    common = {"model": "m", "accelerator": "a10g", "read": DAY}
    text = record("", settings={"max_num_seqs": 8}, kv_bytes=1, **common)
    text = record(text, settings={"max_num_seqs": 16}, kv_bytes=2, **common)
    text = record(text, settings={"max_num_seqs": 8}, kv_bytes=3, **common)
    assert sorted(pool.kv_bytes for pool in read_memory_profile(text).pools) == [2, 3]


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.booleans() | st.text(max_size=8), max_size=6))
def test_digest_does_not_depend_on_order(settings):
    assert digest(settings) == digest(dict(reversed(settings.items())))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("pools: [", "YAML"),
        ("just words", "pools"),
        ("[]", "pools"),
        ("pools: [{model: m}]", "pools.0 accelerator, digest, kv_bytes, read are missing"),
        ("pool: []", "pool"),
        ("pools: [{model: m, accelerator: a, digest: d, kv_bytes: 0, read: 2026-01-01}]", "kv_bytes"),
    ],
)
def test_invalid_calibration_file_is_refused(text, named):
    with pytest.raises(ConfigError) as caught:
        record(text, model="m", accelerator="a", settings={}, kv_bytes=1, read=DAY, where="pools.yaml")
    assert "pools.yaml" in caught.value.where
    assert named in f"{caught.value.where} {caught.value.what}"
