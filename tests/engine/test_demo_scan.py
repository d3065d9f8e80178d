"""The attention form of the Mamba-2 scan, with which demo/train.py trains, equals the model's own scan."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import NemotronHForCausalLM

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "src" / "hybridserve" / "demo_model"


def test_training_scan_has_the_loss_and_gradients_of_the_models_scan() -> None:
    spec = importlib.util.spec_from_file_location("demo_scan", ROOT / "demo" / "scan.py")
    assert spec is not None
    assert spec.loader is not None
    scan = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scan)
    model = NemotronHForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    ids = torch.randint(7, 1000, (2, 77), generator=torch.Generator().manual_seed(0))

    def loss_and_gradients() -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        return loss.item(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    plain_loss, plain = loss_and_gradients()
    with scan.quick_scan():
        quick_loss, quick = loss_and_gradients()
    assert quick_loss == pytest.approx(plain_loss, rel=1e-5)
    for expected, actual in zip(plain, quick, strict=True):
        assert float((expected - actual).abs().max()) <= 1e-3 * float(expected.abs().max()) + 1e-7
