"""`hybridserve verify` on a real engine: a sample of `make test-verify`, whose suite has every fault."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hybridserve.compliance.evidence import is_intact
from hybridserve.verify.reference import read_reference
from hybridserve.verify.run import Load
from support.faulty_engine import compared, faulty_engine, verify

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def test_faults_are_caught_and_the_right_engine_passes(tmp_path: Path) -> None:
    """The recording has one pass, in which often no answer of those sent together moves; in the next run some do."""
    reference, evidence, prompts = (tmp_path / name for name in ("reference.json", "evidence.json", "prompts.jsonl"))
    prompts.write_text('{"messages": [{"role": "user", "content": "What is 2 + 5?"}], "expect": "7"}\n')
    with faulty_engine() as engine:
        code, document = verify(engine, "--record", str(reference), "--passes", "1", "--prompts", str(prompts))
        assert code == 0, document
        assert reference.stat().st_size < 900_000, "the chart's ConfigMap cannot hold it"
        recorded = read_reference(reference)
        # A later turn was recorded behind the cached turns before it; without them it rounds in other places.
        alone = tuple(entry for entry in recorded.entries if entry.probe.group != "turns")
        few = replace(recorded, entries=alone[::3])
        for fault, failing in (("state_bfloat16", "single"), ("slots_swapped", "concurrent")):
            engine.switch(fault)
            document = compared(engine, few, Load(pressure=0))
            verdicts = {row["condition"]: row["verdict"] for row in document["conditions"]}
            assert (document["verdict"], verdicts[failing]) == ("FAIL", "FAIL"), document
        assert verdicts["single"] == "PASS", "alone, a sequence has no other's state to use"
        engine.switch("none")
        code, document = verify(engine, "--reference", str(reference), "--evidence", str(evidence))
    assert (code, document["verdict"]) == (0, "PASS"), document
    preempted = next(row for row in document["conditions"] if row["condition"] == "preempted")
    assert preempted["verdict"] == "PASS", "nothing was preempted"
    record = json.loads(evidence.read_text())
    assert is_intact(record)
    assert record["about"]["model"]["id"] == "demo"
