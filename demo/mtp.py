"""Add an MTP layer to the demo model: `python demo/mtp.py --out /tmp/demo-mtp`.

The layer is what vLLM's NemotronHMTP loads: it joins the model's last hidden state with the next token's embedding, and
one attention layer and the model's own head draft the token after that. Only the layer is trained, on the corpus beside
this file; the model's own weights and answers stay.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from dialogues import Corpus
from safetensors.torch import load_file, save_file
from scan import quick_scan
from train import IGNORED, STAGES, stage_batches
from transformers import NemotronHForCausalLM, PreTrainedTokenizerFast

DEMO = Path(__file__).resolve().parents[1] / "src" / "hybridserve" / "demo_model"
PREFIX = "mtp.layers.0."
HELD_OUT = 12


class Draft(torch.nn.Module):
    """The layer, beginning with the weights of the model's last attention layer."""

    def __init__(self, model: NemotronHForCausalLM) -> None:
        super().__init__()
        hidden, norm = model.config.hidden_size, model.model.norm_f
        block = [block for block in model.model.layers if block.block_type == "full_attention"][-1]
        self.enorm, self.hnorm, self.final_layernorm = (copy.deepcopy(norm) for _ in range(3))
        self.norm, self.mixer = copy.deepcopy(block.norm), copy.deepcopy(block.mixer)
        self.eh_proj = torch.nn.Linear(2 * hidden, hidden, bias=False)

    def forward(self, embeddings: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states for the head; the embeddings are of the tokens that follow the hidden states' tokens."""
        joined = self.eh_proj(torch.cat([self.enorm(embeddings), self.hnorm(hidden)], dim=-1))
        return self.final_layernorm(joined + self.mixer(self.norm(joined), attention_mask=None)[0])


def drafted(
    model: NemotronHForCausalLM, draft: Draft, ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of the drafts for each token of the replies, those tokens, and what the model itself says there."""
    chosen = labels[:, 2:] != IGNORED
    # A context for each step: autocast keeps the cast weights until its end.
    with torch.autocast("cpu", dtype=torch.bfloat16), quick_scan():
        with torch.no_grad():
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model.lm_head(draft(model.model.embeddings(ids[:, 1:-1]), hidden[:, :-2])[chosen])
        greedy = model.lm_head(hidden[:, 1:-1][chosen]).argmax(-1)
    return logits.float(), labels[:, 2:][chosen], greedy


def train(
    model: NemotronHForCausalLM, draft: Draft, data: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int
) -> float:
    """Train in place; returns the share of the held-out drafts that the model accepts."""
    held_out = list(itertools.islice(data, HELD_OUT))
    optimizer = torch.optim.AdamW(draft.parameters(), lr=2e-3, betas=(0.9, 0.98))
    for step, (ids, labels) in enumerate(itertools.islice(data, steps)):
        optimizer.param_groups[0]["lr"] = 2e-3 * min((step + 1) / 20, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        logits, wanted, _ = drafted(model, draft, ids, labels)
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1:4d}/{steps}  loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        said = [drafted(model, draft, ids, labels) for ids, labels in held_out]
    same = sum(int((logits.argmax(-1) == greedy).sum()) for logits, _, greedy in said)
    return same / sum(len(greedy) for _, _, greedy in said)


def main() -> None:
    """Train the layer and write the model with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO, help="folder of the model (default: the demo model)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model with the layer")
    parser.add_argument("--steps", type=int, default=300, help="training steps (default %(default)s)")
    options = parser.parse_args()
    torch.manual_seed(7)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.model)
    model = NemotronHForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval().requires_grad_(False)
    draft = Draft(model).requires_grad_(True)
    data = stage_batches(Corpus(), tokenizer, STAGES[-1], random.Random(8))
    accepted = train(model, draft, data, options.steps)
    shutil.copytree(options.model, options.out, dirs_exist_ok=True)
    layer = {PREFIX + name: value.detach().to(torch.bfloat16) for name, value in draft.state_dict().items()}
    weights = load_file(options.model / "model.safetensors") | layer
    save_file(weights, options.out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((options.model / "config.json").read_text())
    config |= {"num_nextn_predict_layers": 1, "mtp_layers_block_type": ["full_attention"]}
    (options.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"wrote {options.out}: the model accepts {accepted:.0%} of the drafts for the next token but one")


if __name__ == "__main__":
    main()
