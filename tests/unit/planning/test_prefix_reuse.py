"""Where states are kept, what hits, and why reusable tokens are lost. Hits were read on vLLM 0.29.0 (docs/evidence)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.engine.prefix_directory import PrefixDirectory
from hybridserve.errors import ConfigError
from hybridserve.planning.cache.reuse import MAX_ENTRIES, CacheGrid, ReuseAccount, SeenPrefixes, chain
from hybridserve.planning.cache.reuse_model import replay
from hybridserve.planning.cache.reuse_trace import TracedRequest, read_trace


def grid(unit: int = 384, split: int = 384, blocks: int = 1364) -> CacheGrid:
    return CacheGrid(384, unit, split, 2312, 1, 2, blocks)


GRIDS = {
    "default": grid(split=128),
    "block_size": grid(),
    "prefix_match_unit": grid(unit=32, split=128),
    "both": grid(unit=32),
}


def tokens(count: int, seed: int = 1) -> list[int]:
    return random.Random(seed).choices(range(900), k=count)


def request(prompt: list[int], output: int = 2) -> TracedRequest:
    hashes = chain([*prompt, *[1] * output])
    return TracedRequest(16, hashes, len(prompt), len(prompt) + output, None)


@pytest.mark.parametrize(
    ("length", "settings", "hits"),
    [
        (800, "default", (0, 768, 768)),
        (1076, "default", (0, 0, 768)),
        (1738, "default", (0, 0, 1536)),
        (2056, "default", (0, 0, 1920)),
        (1076, "block_size", (0, 768, 768)),
        (2056, "block_size", (0, 1920, 1920)),
        (1076, "prefix_match_unit", (0, 1056, 1056)),
        (2056, "prefix_match_unit", (0, 2048, 2048)),
        (1738, "both", (0, 1728, 1728)),
    ],
)
def test_hits_of_a_repeated_prompt_equal_those_of_the_engine(length: int, settings: str, hits: tuple[int, ...]) -> None:
    assert replay([request(tokens(length))] * 3, GRIDS[settings]).hits == hits


@pytest.mark.parametrize(
    ("settings", "hits"),
    [
        ("default", (0, 0, 1152)),
        ("block_size", (0, 1152, 1152)),
        ("prefix_match_unit", (0, 0, 1152)),
        ("both", (0, 1152, 1152)),
    ],
)
def test_hits_of_questions_on_one_document_equal_those_of_the_engine(settings: str, hits: tuple[int, ...]) -> None:
    document = tokens(1280)
    trace = [request(document + tokens(200, seed)) for seed in (2, 3, 4)]
    assert replay(trace, GRIDS[settings]).hits == hits


@pytest.mark.parametrize(
    ("first", "second", "hit", "lost"),
    [
        (300, 300, 0, {"below_minimum": 288}),
        (800, 800, 384, {"off_grid": 16, "state_missing": 384}),
        (800, 800, 768, {"off_grid": 16}),
        (800, 1200, 0, {"off_grid": 32, "state_missing": 768}),
    ],
)
def test_losses_have_causes(first: int, second: int, hit: int, lost: dict[str, int]) -> None:
    account, prompt = ReuseAccount(grid()), tokens(second)
    for length, hits in ((first, 0), (second, hit)):
        hashes = chain(prompt[:length])
        reuse = account.record(hashes, hashes, length, length, hits)
    assert dict(reuse.lost) == lost
    assert reuse.reusable == hit + sum(lost.values())


def test_state_that_other_requests_replaced_is_evicted() -> None:
    account = ReuseAccount(grid(blocks=12))
    for seed in (1, 2, 3, 1):
        hashes = chain(tokens(1200, seed))
        reuse = account.record(hashes, hashes, 1200, 1200, 0)
    assert dict(reuse.lost)["evicted"] == 1152


def test_tokens_beyond_the_point_where_prompts_part_wait_for_the_junction() -> None:
    trace = [request(tokens(800) + tokens(800, seed)) for seed in (2, 3)]
    assert replay(trace, grid()).lost == {"first_junction": 768, "off_grid": 32}


def test_tokens_that_only_another_replica_has_seen_are_lost_to_it() -> None:
    directory, accounts = PrefixDirectory(1 << 20, 16), [ReuseAccount(grid(unit=32)) for _ in range(2)]
    hashes = chain(tokens(1000))
    losses = []
    for account, hit in ((accounts[0], 0), (accounts[1], 0), (accounts[1], 992)):
        elsewhere = directory.exchange(hashes, 999 // 16)
        losses.append(dict(account.record(hashes, hashes, 1000, 1000, hit, elsewhere=elsewhere).lost))
    assert losses == [{}, {"other_replica": 992}, {}]


@given(st.data())
def test_hit_and_lost_tokens_sum_to_the_reusable_ones(data: st.DataObject) -> None:
    """For conversations that branch and return, in any order, in pools of any size."""
    account = ReuseAccount(grid(data.draw(st.sampled_from((16, 32, 384))), blocks=data.draw(st.integers(8, 99))))
    for _ in range(data.draw(st.integers(1, 8))):
        prompt = [7] * data.draw(st.integers(1, 1500)) + [8] * data.draw(st.integers(0, 900))
        hit = data.draw(st.integers(0, len(prompt) - 1)) // account.grid.unit * account.grid.unit
        hashes = chain(prompt, account.grid.step)
        elsewhere = data.draw(st.integers(0, 2400))
        reuse = account.record(hashes, hashes, len(prompt), len(prompt), hit, elsewhere=elsewhere)
        assert hit <= reuse.reusable == hit + sum(count for _, count in reuse.lost) < len(prompt)
        assert all(count > 0 for _, count in reuse.lost)


def test_memory_is_bounded() -> None:
    seen = SeenPrefixes(1 << 40, 16)
    for start in range(0, 3 * MAX_ENTRIES, MAX_ENTRIES // 2):
        seen.add(range(start, start + MAX_ENTRIES // 2))
    assert len(seen._seen) == MAX_ENTRIES


def test_trace_is_read_as_it_was_written() -> None:
    wanted = TracedRequest(16, [value % (1 << 64) for value in chain(tokens(100))], 90, 100, 64)
    assert read_trace([wanted.to_json(), ""], "trace") == [wanted]


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        ([], "t"),
        (["{"], "t:1"),
        (['{"prompt": "text"}'], "t:1"),
        (['{"prompt": [1, 2]}', "[]"], "t:2"),
        (['{"step": 16, "chain": ["a"], "prompt_tokens": 10, "total_tokens": 99}'], "t:1"),
        (['{"prompt": [1]}', '{"step": 8, "chain": [], "prompt_tokens": 1, "total_tokens": 1}'], "t"),
    ],
)
def test_wrong_trace_is_refused(lines: list[str], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_trace(lines, "t")
    assert caught.value.where == where
