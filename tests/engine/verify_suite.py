"""Every known numeric fault and 200 clean runs of `hybridserve verify` on real engines: `make test-verify`.

Writes the tables of docs/evidence/verify.md. VERIFY_CLEAN sets the number of clean runs, VERIFY_ROWS the file that
collects the results and VERIFY_REFERENCE the one that keeps the reference, so that parts can run one after another.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import hybridserve
from hybridserve.verify.reference import read_reference
from hybridserve.verify.run import Load
from support.faulty_engine import FaultyEngine, compared, faulty_engine, verify
from support.numeric_faults import FAULTS
from support.stack_service import HYBRIDSERVE, NO_COMPILER, free_port, start

pytestmark = [pytest.mark.engine, pytest.mark.timeout(7200)]

DEMO = Path(hybridserve.__file__).parent / "demo_model"
CLEAN = int(os.environ.get("VERIFY_CLEAN", "200"))
ROWS = Path(os.environ.get("VERIFY_ROWS", ".cache/verify.jsonl"))
LONGEST_S = 180.0


@pytest.fixture(scope="module")
def engine() -> Iterator[FaultyEngine]:
    with faulty_engine() as running:
        yield running


@pytest.fixture(scope="module")
def reference(engine: FaultyEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = Path(os.environ.get("VERIFY_REFERENCE") or tmp_path_factory.mktemp("verify") / "reference.json")
    if file.exists():
        return file
    code, document = verify(engine, "--record", str(file))
    assert code == 0, document
    return file


def note(kind: str, name: str, document: dict[str, Any], seconds: float) -> None:
    """Add a result to the file from which the evidence is written."""
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    with ROWS.open("a") as file:
        row = {"kind": kind, "name": name, "seconds": round(seconds, 1), **document}
        file.write(json.dumps(row) + "\n")


def measured(engine: FaultyEngine, kind: str, name: str, reference: Path, load: Load = Load()) -> str:  # noqa: B008
    start = time.monotonic()
    document = compared(engine, read_reference(reference), load)
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
        assert measured(engine, "fault", fault, reference) == "FAIL"
    finally:
        engine.switch("none")


def test_the_engine_is_right_after_all_faults(engine: FaultyEngine, reference: Path) -> None:
    assert measured(engine, "after", "none", reference) == "PASS"


def test_vllms_own_fault_is_caught(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM 0.29 without our plugin copies a part of a block on a hit inside it (engine/patches/block_copies.py)."""
    monkeypatch.setenv("VLLM_PLUGINS", "")
    with faulty_engine(["engine.prefix_match_unit=32"]) as broken:
        verdicts = [measured(broken, "fault", "prefix_match_unit 32", reference) for _ in range(3)]
    assert "FAIL" in verdicts


def test_transformers_makes_a_reference(engine: FaultyEngine, tmp_path: Path) -> None:
    """In float32 and without a cache: tolerance `other`, which the right engine meets and a lost state does not."""
    reference = tmp_path / "reference.json"
    words = ["verify", str(DEMO), "--record", str(reference), "--model", "demo", "--block-size", "384"]
    subprocess.run([str(HYBRIDSERVE), *words], check=True, timeout=900)
    for fault, verdict in (("none", "PASS"), ("conv_state_skipped", "FAIL"), ("none", "PASS")):
        engine.switch(fault)
        document = compared(engine, read_reference(reference), Load())
        print(fault, document["verdict"], [(row["condition"], row["level"]) for row in document["conditions"]])
        assert document["verdict"] == verdict


def test_clean_runs_pass(engine: FaultyEngine, reference: Path) -> None:
    """At most one false alarm in a hundred, with other batches and other memory of the cache in every run."""
    source, alarms = random.Random(7), 0
    for number in range(CLEAN):
        load = Load(source.choice((2, 5, 8, 16, 24)), source.choice((8, 16, 24)))
        alarms += measured(engine, "clean", str(number), reference, load) != "PASS"
    assert alarms <= CLEAN / 100


def test_a_replica_serves_only_after_its_check(tmp_path: Path) -> None:
    """A trusted replica writes the reference; one that rounds its state to bfloat16 stays out of the traffic."""
    reference, port = tmp_path / "reference.json", free_port()
    flags = ["--set", "server.data_path=single", "--set", "verify.at_start=true", "--set", "verify.pressure=8"]
    trusted = start([*flags, "--set", f"verify.record_file={reference}"])
    assert trusted.metric("hybridserve_verify_passed") == 1
    assert trusted.stop() == 0
    flags += ["--set", f"verify.reference_file={reference}", "--set", "engine.mamba_ssm_cache_dtype=bfloat16"]
    command = [str(HYBRIDSERVE), "serve", "--json", "--port", str(port), *flags]
    broken = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **NO_COMPILER}
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http:
            said = ""
            while "log-probabilities are wrong" not in said:
                assert broken.poll() is None, said
                time.sleep(1)
                with suppress(httpx.HTTPError):
                    said = http.get("/ready").text
            refused = http.post("/v1/completions", json={"model": "demo", "prompt": "a"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unverified")
            assert 'hybridserve_verify_passed{against="reference"} 0.0' in http.get("/metrics").text
    finally:
        broken.terminate()
        broken.wait(90)
