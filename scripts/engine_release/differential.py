"""Compare the planner with a release's own allocator, and find the constants of the table with which they agree."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from engine_release.release import ROOT, Release
from hybridserve.catalog.engines import EngineTable
from hybridserve.planning.cache import layout

sys.path.insert(0, str(ROOT / "tests" / "engine"))

from planner_answers import differences, predict
from planner_cases import card_cases, curated
from planner_random_cases import drawn

ORACLE = ROOT / "tests" / "engine" / "vllm_allocator.py"
# Constants that show in the allocator's answers and nowhere else; each is tried when answers differ.
SWITCHES = (
    "replayssm_on_cuda",
    "yarn_scales_context",
    "prefix_match_unit_checked_for_one_group",
    "mamba_cache_mode_ignored",
    "window_has_smallest_block",
    "float_cache_must_match",
)


@dataclass(frozen=True)
class Answers:
    """What a release's allocator says about every case."""

    curated: int
    cards: int
    random: int
    pairs: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
    """Case and answer."""

    @property
    def refused(self) -> int:
        return sum("refused" in answer for _, answer in self.pairs)

    def differing(self, table: EngineTable) -> list[str]:
        """Fields on which the planner with this table and the release differ, one line each."""
        with patch.object(layout, "engine_table", lambda _: (table, None)):
            return [
                line for case, answer in self.pairs for line in differences(case, predict(case, table.version), answer)
            ]


def ask(release: Release, random: int, seed: int) -> Answers:
    """The release's answers to the curated cases, the cards and `random` drawn cases."""
    chosen, cards, random_cases = curated(), card_cases(), drawn(random, seed)
    cases = [*chosen, *cards, *random_cases]
    print(f"asking vLLM {release.version} about {len(cases)} cases", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        questions, answers = Path(scratch) / "cases.json", Path(scratch) / "answers.json"
        questions.write_text(json.dumps(cases))
        release.ask(ORACLE, str(questions), str(answers))
        content = json.loads(answers.read_text())
    if content["vllm"].split("+")[0] != release.version:
        raise SystemExit(f"asked vLLM {content['vllm']}, not {release.version}: is {release.folder} complete?")
    pairs = tuple(zip(cases, content["answers"], strict=True))
    return Answers(len(chosen), len(cards), len(random_cases), pairs)


def fit(answers: Answers, table: EngineTable) -> EngineTable:
    """The table with the constants that make the planner agree best, changed one at a time."""
    best, lines = table, len(answers.differing(table))
    while lines:
        tried = [(len(answers.differing(candidate)), candidate) for candidate in _neighbors(best)]
        fewest, candidate = min(tried, key=lambda pair: pair[0])
        if fewest >= lines:
            break
        best, lines = candidate, fewest
    return best


def summary(differing: list[str]) -> dict[str, int]:
    """How often each field differs."""
    return dict(Counter(line.split(": ")[1] for line in differing))


def _neighbors(table: EngineTable) -> Iterator[EngineTable]:
    def changed(**update: Any) -> EngineTable:
        return table.model_copy(update=update)

    for name in SWITCHES:
        yield changed(**{name: not getattr(table, name)})
    yield changed(speculation_not_in_page=frozenset())
    yield changed(kda_state_dtypes=("float32", "bfloat16") if len(table.kda_state_dtypes) == 1 else ("float32",))
    yield changed(flashinfer_checkpoint_tokens=None if table.flashinfer_checkpoint_tokens else 64)
    for mixer, blocks in table.state_blocks_align.items():
        for step in (-1, 1):
            yield changed(state_blocks_align={**table.state_blocks_align, mixer: blocks + step})
