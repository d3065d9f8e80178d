"""Recording and comparing on a toy engine, the reference file, and a user's prompts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from hybridserve.errors import ConfigError, ServiceError
from hybridserve.verify.client import EngineClient
from hybridserve.verify.probes import own_prompts
from hybridserve.verify.reference import Reference, read_reference
from hybridserve.verify.run import Load, check
from hybridserve.verify.statistics import Result, overall
from support.toy_engine import ToyEngine

LOAD = Load(concurrency=4, pressure=4)
GIVEN = {"dtype": "bfloat16", "block_size": None}


async def run(engine: ToyEngine, known: Reference | None = None, model: str = "demo") -> tuple[Reference, list[Result]]:
    transport = httpx.ASGITransport(app=engine)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as http:
        return await check(EngineClient(http, model), known, (), GIVEN, LOAD, 0.005, 2)


@pytest.fixture(scope="module")
def reference() -> Reference:
    made, results = asyncio.run(run(ToyEngine(noise=0.01, seed=1)))
    assert overall(results) == "PASS"
    assert made.noise["warm"] == made.noise["preempted"] != made.noise["single"]
    return made


def is_long(prompt: Sequence[int]) -> bool:
    return len(prompt) > 60


@pytest.mark.parametrize(
    ("engine", "wrong"),
    [
        (ToyEngine(noise=0.01, seed=2), []),
        (
            ToyEngine(noise=0.01, broken=lambda _: True),
            ["single", "warm", "concurrent", "preempted", "after", "forced"],
        ),
        (ToyEngine(noise=0.01, broken=is_long), ["single", "warm", "concurrent", "forced"]),
        (ToyEngine(noise=0.1), ["single", "warm", "concurrent", "preempted", "after"]),
    ],
    ids=["right", "broken", "wrong when long", "ten times the noise"],
)
async def test_conditions_fail_where_the_engine_is_wrong(
    reference: Reference, engine: ToyEngine, wrong: list[str]
) -> None:
    _, results = await run(engine, reference)
    failed = [result.condition for result in results if result.verdict == "FAIL"]
    assert set(wrong) <= set(failed)
    assert bool(failed) is bool(wrong)


async def test_a_run_without_preemption_shows_nothing_about_it(reference: Reference) -> None:
    _, results = await run(ToyEngine(noise=0.01, seed=2), reference)  # its counter does not move
    (preempted,) = [result for result in results if result.condition == "preempted"]
    assert (preempted.verdict, preempted.note) == ("SKIP", "0 preemptions")


async def test_another_release_gets_the_tolerance_of_its_data_type(reference: Reference) -> None:
    engine = ToyEngine(noise=0.03, seed=3, version="0.30.0")
    used, results = await run(engine, reference)
    assert used.about["tolerance"] == "other"
    assert overall(results) == "PASS", results


async def test_beside_other_requests_a_prompt_alone_is_not_alone(reference: Reference) -> None:
    busy = ToyEngine(noise=0.03, seed=3, running=1)
    used, results = await run(busy, reference)
    assert (used.about["tolerance"], overall(results)) == ("regrouped", "PASS"), results
    _, results = await run(ToyEngine(noise=0.03, seed=3), reference)
    assert overall(results) == "FAIL"


async def test_an_engine_that_differs_from_itself_fails_without_a_reference() -> None:
    engine = ToyEngine()
    engine.broken = lambda _: engine.requests > 60  # a state that goes bad while it serves
    _, results = await run(engine)
    assert overall(results) == "FAIL"


def test_a_reference_file_has_its_content_and_no_change(reference: Reference, tmp_path: Path) -> None:
    file = tmp_path / "reference.json"
    file.write_text(reference.to_json())
    read = read_reference(file)
    assert (read.entries, read.noise) == (reference.entries, reference.noise)
    file.write_text(reference.to_json().replace("-0.", "-1.", 1))
    with pytest.raises(ConfigError, match="was changed"):
        read_reference(file)


async def test_a_reference_of_another_model_is_refused(reference: Reference) -> None:
    other = Reference({**reference.about, "model": "other"}, reference.entries, reference.noise)
    with pytest.raises(ConfigError, match="is of other, the engine serves demo"):
        await run(ToyEngine(), other)
    with pytest.raises(ServiceError, match="serves demo, not nano"):
        await run(ToyEngine(), reference, model="nano")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"prompt": ', "is not JSON"),
        ('{"text": "a"}', "neither a prompt nor a chat"),
        ('{"prompt": "a", "expect": "b"}', "neither a prompt nor a chat"),
        ('{"messages": []}', "neither a prompt nor a chat"),
        ("", "has no prompts"),
    ],
)
def test_a_wrong_prompt_is_named_by_its_line(tmp_path: Path, line: str, error: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(line)
    with pytest.raises(ConfigError, match=error):
        own_prompts(file)


def test_own_prompts_are_texts_and_chats(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    chat = {"messages": [{"role": "user", "content": "2 + 2?"}], "expect": "4"}
    file.write_text(json.dumps({"prompt": "Once"}) + "\n\n" + json.dumps(chat))
    first, second = own_prompts(file)
    assert (first.id, second.id) == ("own-1", "own-3")


async def test_a_prompt_that_lost_its_start_is_found(reference: Reference) -> None:
    """The engine then reports fewer positions of the prompt, and others."""

    class Truncating(ToyEngine):
        def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
            return super()._complete({**body, "prompt": body["prompt"][-60:]})

    _, results = await run(Truncating(noise=0.01), reference)
    assert {result.condition for result in results if result.verdict == "FAIL"} >= {"single", "forced"}
