"""The scripts in demo/ train: a few steps of each, since the whole takes an hour."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

pytestmark = pytest.mark.engine

DEMO = Path(__file__).parents[2] / "demo"
FEW_STEPS = """
from pathlib import Path
from dialogues import EVERYTHING, Corpus
from train import Schedule, Stage, new_model, train
from transformers import PreTrainedTokenizerFast
tokenizer = PreTrainedTokenizerFast.from_pretrained("../src/hybridserve/demo_model")
stages = (Stage(2, EVERYTHING, (1e-3, 1e-3), tokens=256), Stage(1, EVERYTHING, (1e-3, 1e-3), tokens=256))
print(*train(new_model(7, tokenizer), tokenizer, Corpus(), Schedule(stages=stages), 7))
"""


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=DEMO, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_model_is_trained_from_random_weights() -> None:
    losses = [float(word) for word in run("-c", FEW_STEPS).split()[-3:]]
    # With random weights each of the 1,024 tokens is about as likely as another.
    assert losses == pytest.approx([math.log(1024)] * 3, rel=0.05)


def test_the_mtp_layer_is_added(tmp_path: Path) -> None:
    run("mtp.py", "--out", str(tmp_path), "--steps", "2")
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert any(name.startswith("mtp.") for name in weights.keys())  # noqa: SIM118 - no mapping
