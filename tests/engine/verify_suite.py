"""Every known numeric fault and 200 clean runs of `hybridserve verify` on real engines: `make test-verify`.

Writes the tables of docs/evidence/verify.md. VERIFY_CLEAN sets the number of clean runs, VERIFY_ROWS the file that
collects the results, so that parts can run one after another.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.faulty_engine import FaultyEngine, faulty_engine, verify
from support.numeric_faults import FAULTS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(7200)]

CLEAN = int(os.environ.get("VERIFY_CLEAN", "200"))
ROWS = Path(os.environ.get("VERIFY_ROWS", ".cache/verify.jsonl"))
LONGEST_S = 180.0


@pytest.fixture(scope="module")
def engine() -> Iterator[FaultyEngine]:
    with faulty_engine() as running:
        yield running


@pytest.fixture(scope="module")
def reference(engine: FaultyEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("verify") / "reference.json"
    code, document = verify(engine, "--record", str(file))
    assert code == 0, document
    return file


def note(kind: str, name: str, document: dict[str, Any], seconds: float) -> None:
    """Add a result to the file from which the evidence is written."""
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    with ROWS.open("a") as file:
        row = {"kind": kind, "name": name, "seconds": round(seconds, 1), **document}
        file.write(json.dumps(row) + "\n")


def measured(engine: FaultyEngine, kind: str, name: str, *options: str) -> str:
    """The verdict of one run."""
    start = time.monotonic()
    _, document = verify(engine, *options)
    seconds = time.monotonic() - start
    note(kind, name, document, seconds)
    failed = [row["condition"] for row in document["conditions"] if row["verdict"] == "FAIL"]
    print(f"{kind} {name}: {document['verdict']} in {seconds:.1f} s {failed}", flush=True)
    assert seconds < LONGEST_S
    verdict: str = document["verdict"]
    return verdict


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(engine: FaultyEngine, reference: Path, fault: str) -> None:
    engine.switch(fault)
    try:
        assert measured(engine, "fault", fault, "--reference", str(reference)) == "FAIL"
    finally:
        engine.switch("none")


def test_the_engine_is_right_after_all_faults(engine: FaultyEngine, reference: Path) -> None:
    assert measured(engine, "after", "none", "--reference", str(reference)) == "PASS"


def test_wrong_tokens_after_preemption_are_caught(reference: Path) -> None:
    """A fault of vLLM 0.29 itself: on CPU, `prefix_match_unit: 32` gives wrong states after a preemption."""
    with faulty_engine(["engine.prefix_match_unit=32"]) as broken:
        verdicts = [measured(broken, "fault", "prefix_match_unit 32", "--reference", str(reference)) for _ in range(3)]
    assert "FAIL" in verdicts


def test_clean_runs_pass(engine: FaultyEngine, reference: Path) -> None:
    """At most one false alarm in a hundred, with other batches and other memory of the cache in every run."""
    source, alarms = random.Random(7), 0
    for number in range(CLEAN):
        load = ("--concurrency", str(source.choice((2, 5, 8, 16, 24))), "--pressure", str(source.choice((8, 16, 24))))
        alarms += measured(engine, "clean", str(number), "--reference", str(reference), *load) != "PASS"
    assert alarms <= CLEAN / 100
