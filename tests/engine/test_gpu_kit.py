"""The GPU measurement of benchmarks/gpu, run whole on vLLM's CPU build with tiny shapes."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

KIT = Path(__file__).parents[2] / "benchmarks" / "gpu"
STEPS = "probe,nano-speed,qwen-served,nano-64-seqs,nano-refused,nano-turns,nano-a10g"


def run(script: str, *options: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(KIT / script), *options], capture_output=True, text=True, timeout=timeout, cwd=KIT
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu-kit")
    done = run("measure.py", "--tiny", "--out", str(folder), "--budget", "250", "--steps", STEPS)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results.json"


@pytest.mark.engine
def test_every_step_runs_and_records_what_it_measured(results: Path) -> None:
    steps = {step["step"]: step for step in json.loads(results.read_text())["steps"]}
    assert list(steps) == STEPS.split(",")
    assert all(step["ok"] for step in steps.values())
    speed = steps["nano-speed"]
    assert [(row["isl"], row["osl"]) for row in speed["workloads"]] == [(512, 256), (64, 128)]
    assert all(row["output_tokens_per_s"] > 0 and row["decode"]["preempted"] == 0 for row in speed["workloads"])
    assert speed["whole"][0]["ended"] == speed["whole"][0]["count"]
    assert "larger than the available KV cache memory" in steps["nano-refused"]["refused"]
    assert [row["turn"] for row in steps["nano-turns"]["turns"]] == [1, 2, 3]
    # The pool is counted in blocks that one sequence of this length needs: as many run as fit, the others wait.
    point = steps["nano-a10g"]["points"][0]
    assert point["running"] + point["waiting"] == point["asked"] == point["fit"] + 6


@pytest.mark.engine
def test_the_planner_agrees_with_the_measured_integers(results: Path) -> None:
    done = run("compare.py", str(results), "--gpu", "cpu", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    integers = {row["step"]: row["integers"] for row in report["capacity"]}
    assert set(integers) == set(STEPS.split(",")) - {"probe", "nano-refused"}
    assert all(measured == plan for row in integers.values() for measured, plan in row.values())


@pytest.mark.engine
def test_compare_fails_where_an_integer_differs(results: Path, tmp_path: Path) -> None:
    changed = json.loads(results.read_text())
    step = next(step for step in changed["steps"] if step["step"] == "nano-64-seqs")
    step["facts"]["pool"]["num_blocks"] += 1
    (tmp_path / "results.json").write_text(json.dumps({"steps": [step]}))
    done = run("compare.py", str(tmp_path / "results.json"), "--gpu", "cpu")
    assert done.returncode == 1
    assert "DIFFERENT" in done.stdout


def test_a_wrong_machine_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run("measure.py", "--out", str(tmp_path / "out"), timeout=20)
    assert done.returncode == 2
    assert done.stderr.startswith("measure.py: ")
    assert len(done.stderr.splitlines()) == 1
    assert "CUDA" in done.stderr


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    done = run("measure.py", "--tiny", "--out", str(tmp_path / "out"), "--steps", "probe,nano-spee", timeout=20)
    assert done.returncode == 2
    assert "--steps nano-spee: unknown" in done.stderr


def entry(kind: int, arch: int, size: int) -> bytes:
    head = bytearray(64)
    struct.pack_into("<HHIQ", head, 0, kind, 0, 64, size)
    struct.pack_into("<I", head, 28, arch)
    return bytes(head) + bytes([arch % 256]) * size


def test_pruning_keeps_the_machine_code_of_one_architecture() -> None:
    sys.path.insert(0, str(KIT))
    try:
        import fatbin_prune
    finally:
        sys.path.remove(str(KIT))
    hopper, ampere, ptx = entry(2, 90, 200), entry(2, 80, 100), entry(1, 90, 50)
    containers = [b"".join((ampere, hopper, ptx)), ampere]
    body = b"".join(struct.pack("<IHHQ", fatbin_prune.MAGIC, 1, 16, len(part)) + part for part in containers[:1])
    body += bytes(-len(body) % 8)
    body += struct.pack("<IHHQ", fatbin_prune.MAGIC, 1, 16, len(containers[1])) + containers[1]
    # A minimal ELF64 file: header, the section, its name table, and three section headers.
    names = b"\0.nv_fatbin\0.shstrtab\0"
    table = 64 + len(body) + len(names)
    header = bytearray(64)
    struct.pack_into("<Q", header, 0x28, table)
    struct.pack_into("<HHH", header, 0x3A, 64, 3, 2)
    rows = [bytes(64)]
    for name, offset, size in ((1, 64, len(body)), (12, 64 + len(body), len(names))):
        row = bytearray(64)
        struct.pack_into("<I", row, 0, name)
        struct.pack_into("<QQ", row, 24, offset, size)
        rows.append(bytes(row))
    data = bytearray(bytes(header) + body + names + b"".join(rows))
    length = len(data)
    counted = fatbin_prune.prune(data, 90)
    assert len(data) == length
    assert counted[("code", 90, "kept")] == len(hopper)
    assert counted[("code", 80, "dropped")] == len(ampere)
    assert counted[("ptx", 90, "dropped")] == len(ptx)
    # A container without code for the card keeps its smallest entry.
    assert counted[("code", 80, "kept")] == len(ampere)
    kept = [fatbin_prune.entries(bytes(data), at, size) for _, at, size in fatbin_prune.containers(
        bytes(data), 64, len(body))]  # fmt: skip
    assert [[arch for _, _, _, arch in found] for found in map(list, kept)] == [[90], [80]]
