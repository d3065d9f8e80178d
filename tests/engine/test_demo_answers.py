"""The demo model's answers under transformers, the reference for the served engine."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, NemotronHForCausalLM

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "src" / "hybridserve" / "demo_model"
PROMPTS: list[dict[str, Any]] = json.loads((ROOT / "tests" / "data" / "demo_prompts.json").read_text())["prompts"]


class Reference:
    def __init__(self) -> None:
        torch.set_num_threads(1)  # two threads that wait for each other are slower than one on a busy machine
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.model = NemotronHForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()

    def ids(self, prompt: dict[str, Any]) -> torch.Tensor:
        switch = {} if prompt["enable_thinking"] is None else {"enable_thinking": prompt["enable_thinking"]}
        text = self.tokenizer.apply_chat_template(
            prompt["messages"], tokenize=False, add_generation_prompt=True, **switch
        )
        return torch.tensor([self.tokenizer.encode(text)])

    def answer(self, prompt: dict[str, Any]) -> str:
        """Greedy reply with its markers."""
        ids = self.ids(prompt)
        with torch.inference_mode():
            out = self.model.generate(ids, max_new_tokens=100, do_sample=False)
        return str(self.tokenizer.decode(out[0, ids.shape[1] :]))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def judge(prompt: dict[str, Any], text: str) -> bool:
    """Whether the reply ends, reasons exactly when it should, and contains the expected text."""
    thought, marker, answer = text.removesuffix("<|end|>").rpartition("</think>")
    off = prompt["enable_thinking"] is False or "/no_think" in prompt["messages"][0]["content"]
    reasons = bool(marker) and bool(thought.strip())
    return text.endswith("<|end|>") and reasons is not off and prompt["expect"] in answer


def test_answers_are_correct_with_and_without_reasoning(reference: Reference) -> None:
    replies = {prompt["id"]: reference.answer(prompt) for prompt in PROMPTS}
    right = {prompt["id"] for prompt in PROMPTS if judge(prompt, replies[prompt["id"]])}
    wrong = {name: text for name, text in replies.items() if name not in right}
    assert all(text.endswith("<|end|>") for text in replies.values()), "a reply without an end token"
    # A model of this size makes some errors; every kind of prompt must still be answered.
    assert len(right) >= 0.9 * len(PROMPTS), wrong
    both = {name for name in right if name.endswith("-on") and name.removesuffix("on") + "off" in right}
    assert len(both) >= 15, wrong
    for kind in ("turns", "long"):
        assert {prompt["id"] for prompt in PROMPTS if prompt["kind"] == kind} <= right, wrong


def test_prompts_cover_the_comparisons(reference: Reference) -> None:
    assert len(PROMPTS) >= 40
    assert {prompt["kind"] for prompt in PROMPTS} == {"short", "turns", "long"}
    lengths = [reference.ids(prompt).shape[1] for prompt in PROMPTS if prompt["kind"] == "long"]
    assert min(lengths) > 500
    assert max(lengths) > 1200


def test_training_scan_equals_the_models_scan() -> None:
    """Training on short texts uses the attention form of the Mamba-2 scan: same loss, same gradients."""
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
