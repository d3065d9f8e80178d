"""Compare the planner with vLLM's allocator: every integer is equal, or both refuse.

`make engine VERSION=x` does the same with another release, in an environment of its own.
"""

from __future__ import annotations

import contextlib
import os

import pytest
from planner_answers import differences, predict, refusal_kind
from planner_cases import Case, card_cases, curated, request_fields
from planner_random_cases import drawn

from hybridserve.catalog.engines import KvCacheDtype
from hybridserve.planning.cache import groups, layout, pages
from hybridserve.planning.models import OUT_OF_SCOPE, READERS

pytestmark = pytest.mark.engine
DRAWN = {"CASES": 300, "SEED": 20261123}

# `make test-planner` draws more, or others.
RANDOM_CASES, SEED = (int(os.environ.get(f"PLANNER_{name}", default)) for name, default in DRAWN.items())
CURATED = curated()


@pytest.fixture(scope="session")
def allocator():
    """vLLM, imported once."""
    import vllm_allocator

    vllm_allocator.stub_experts()
    vllm_allocator.register_classes(READERS)
    return vllm_allocator


@pytest.fixture(scope="session")
def engine(allocator) -> str:
    return allocator.vllm.__version__.split("+")[0]


@pytest.fixture(scope="session")
def answers(allocator):
    """vLLM's answers to the curated cases, asked once."""
    return {case["name"]: allocator.allocate(case) for case in CURATED}


@pytest.mark.parametrize("case", CURATED, ids=lambda case: case["name"])
def test_curated(case: Case, answers, engine):
    actual = answers[case["name"]]
    predicted = predict(case, engine)
    assert not differences(case, predicted, actual)
    if "refused" in actual:
        assert refusal_kind(predicted["refused"]) == refusal_kind(actual["refused"]) is not None


@pytest.mark.parametrize("case", card_cases(), ids=lambda case: case["name"])
def test_every_card(case: Case, allocator, engine):
    assert not differences(case, predict(case, engine), allocator.allocate(case))


@pytest.mark.timeout(600)
def test_random(allocator, engine):
    wrong: list[str] = []
    refused = 0
    for case in drawn(RANDOM_CASES, SEED):
        actual = allocator.allocate(case)
        refused += "refused" in actual
        wrong += differences(case, predict(case, engine), actual)
    assert not wrong, "\n".join(wrong)
    assert 0.05 < refused / RANDOM_CASES < 0.5, "the draw should meet both plans and refusals"


def test_every_class_with_state_has_a_reader_or_a_refusal(allocator):
    from vllm.model_executor.models.interfaces import has_inner_state, is_attention_free, is_hybrid
    from vllm.model_executor.models.registry import _PREVIOUSLY_SUPPORTED_MODELS

    registry = allocator.ModelRegistry.models
    with_state = set()
    with allocator.vision_packages():
        for name, entry in registry.items():
            # A class that cannot be imported here is none of the hybrids: they are all found below.
            with contextlib.suppress(ImportError):
                cls = entry.load_model_cls()
                if is_hybrid(cls) or has_inner_state(cls) or is_attention_free(cls):
                    with_state.add(name)
    assert len(with_state) > 30
    assert with_state <= {*READERS, *OUT_OF_SCOPE}
    assert not set(READERS) & set(OUT_OF_SCOPE)
    for name, why in OUT_OF_SCOPE.items():
        removed = _PREVIOUSLY_SUPPORTED_MODELS.get(name)
        assert name in registry or f"until v{removed}," in why, name


def test_cases_cover_every_setting():
    assert len(CURATED) >= 60
    assert len({case["name"] for case in CURATED}) == len(CURATED)
    touched = {field for case in [*CURATED, *drawn(RANDOM_CASES, SEED)] for field in case["request"]}
    assert touched == request_fields()


class TestTheComparisonCanFail:
    """A suite that cannot fail proves nothing: each of these breaks one constant or one rule of the planner."""

    @staticmethod
    def _caught(answers, engine) -> int:
        return sum(bool(differences(case, predict(case, engine), answers[case["name"]])) for case in CURATED)

    def test_detects_wrong_state_budget(self, answers, engine, monkeypatch):
        real = layout.engine_table

        def wrong(version: str):
            table, note = real(version)
            return table.model_copy(update={"state_blocks_align": {**table.state_blocks_align, "mamba2": 4}}), note

        monkeypatch.setattr(layout, "engine_table", wrong)
        assert self._caught(answers, engine) > 20

    def test_detects_wrong_kernel_block(self, answers, engine, monkeypatch):
        real = layout.engine_table

        def wrong(version: str):
            table, note = real(version)
            return table.model_copy(update={"kernel_block_size": {"cuda": 32, "cpu": 32}}), note

        monkeypatch.setattr(layout, "engine_table", wrong)
        assert self._caught(answers, engine) > 10

    @pytest.mark.parametrize(
        ("field", "wrong"),
        [
            ("replayssm_architectures", frozenset()),
            ("state_blocks_none", 2),
            ("default_mamba_chunk_size", 1024),
            ("kv_cache_dtypes", {"fp8": KvCacheDtype(bytes=2, platforms=("cuda", "cpu"))}),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_detects_a_constant_that_make_engine_does_not_look_for(self, answers, engine, monkeypatch, field, wrong):
        table, note = layout.engine_table(engine)
        if isinstance(wrong, dict):
            wrong = table.kv_cache_dtypes | wrong
        monkeypatch.setattr(layout, "engine_table", lambda _: (table.model_copy(update={field: wrong}), note))
        assert self._caught(answers, engine) >= 1

    def test_detects_state_one_byte_too_large(self, answers, engine, monkeypatch):
        real = pages.state_bytes
        monkeypatch.setattr(pages, "state_bytes", lambda *args: real(*args) + 1)
        assert self._caught(answers, engine) > 40

    def test_detects_contiguous_groups(self, answers, engine, monkeypatch):
        monkeypatch.setattr(groups, "cdiv", lambda a, b: a // b or 1)
        assert self._caught(answers, engine) > 10

    def test_detects_missing_null_block(self, answers, engine, monkeypatch):
        real = layout._longest
        monkeypatch.setattr(layout, "_longest", lambda layout, blocks, limit: real(layout, blocks + 1, limit))
        assert self._caught(answers, engine) >= 1
