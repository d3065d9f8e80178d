"""Train the demo model: `python demo/train.py --out src/hybridserve/demo_model`.

The model is transformers' own NemotronH (Mamba-2, MLP and attention layers) with random weights, trained on the corpus
beside this file, in a few minutes on two cores. The seed determines data and initial weights; floating-point sums
depend on the machine, so a second run gives a model of the same quality, not the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import safetensors
import tokenizers
import torch
import transformers
from dialogues import Corpus, Dialogue, digest
from safetensors.torch import save_file
from scan import quick_scan
from tokenizer import END, THINK_END, build, save
from transformers import GenerationConfig, NemotronHConfig, NemotronHForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
IGNORED = -100

# Four Mamba and two attention layers: two full cache groups of states and one of attention.
ARCHITECTURE: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "hybrid_override_pattern": "M-M*-M-M*-",
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "mamba_num_heads": 4,
    "mamba_head_dim": 64,
    "n_groups": 2,
    "ssm_state_size": 64,
    "chunk_size": 64,
    "max_position_embeddings": 4096,
    "mamba_ssm_cache_dtype": "float32",
    # transformers clamps the time step from below in prefill but not in decoding, vLLM never does. At this value the
    # clamp is beyond float32 and all three agree.
    "time_step_min": 1e-9,
    "dtype": "bfloat16",
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length and learning rate of the training. A step has about `tokens` tokens; some steps have long prompts."""

    steps: int = 1400
    tokens: int = 2048
    long_every: int = 10
    warmup: int = 60
    rate: float = 3e-3
    weight_decay: float = 0.05


def new_model(seed: int, tokenizer: PreTrainedTokenizerFast) -> NemotronHForCausalLM:
    """The architecture with random weights."""
    torch.manual_seed(seed)
    config = NemotronHConfig(
        **ARCHITECTURE,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = NemotronHForCausalLM(config)
    for block in model.model.layers:
        if block.block_type == "linear_attention":
            # Time steps from 0.001 to 0.1, as in Mamba-2; the config's minimum is not usable here, see above.
            dt = torch.exp(torch.empty(config.mamba_num_heads).uniform_(math.log(1e-3), math.log(1e-1)))
            block.mixer.dt_bias.data = dt + torch.log(-torch.expm1(-dt))
            block.mixer.chunk_size = 32  # faster on a CPU, same result
    return model


def encode(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> tuple[list[int], list[int]]:
    """Token ids of the whole conversation, and labels: answers with their end markers, the last with reasoning."""
    prompt = tokenizer.encode(
        tokenizer.apply_chat_template(
            dialogue.messages, tokenize=False, add_generation_prompt=True, enable_thinking=dialogue.thinking
        )
    )
    reply = (dialogue.reply.think + THINK_END if dialogue.thinking else "") + dialogue.reply.answer + END
    ids = prompt + tokenizer.encode(reply)
    think_end, end = tokenizer.convert_tokens_to_ids([THINK_END, END])
    labels, in_reply = [], False
    for at, token in enumerate(ids):
        labels.append(token if in_reply or at >= len(prompt) else IGNORED)
        in_reply = token == think_end or (in_reply and token != end)
    return ids, labels


def batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, schedule: Schedule, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """An endless stream of batches (ids, labels), both [conversations, tokens], padded on the right.

    Many conversations are drawn at once and batched by length, so that little is padded.
    """
    rng = random.Random(seed)
    while True:
        drawn = sorted((encode(tokenizer, corpus.dialogue(rng)) for _ in range(512)), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in drawn:
            if (len(groups[-1]) + 1) * len(row[0]) > schedule.tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for at, group in enumerate(groups):
            yield collate(group, tokenizer.pad_token_id)
            if at % schedule.long_every == schedule.long_every - 1:
                notes, count = rng.choice([((4, 10), 6), ((4, 10), 6), ((10, 20), 3), ((20, 40), 2)])
                yield collate(
                    [encode(tokenizer, corpus.dialogue(rng, notes=notes)) for _ in range(count)], tokenizer.pad_token_id
                )


def collate(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids and labels as two tensors of one width."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in rows])
    return ids, labels


def loss_of(model: NemotronHForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the replies' tokens. Padding follows the text, so a causal model needs no mask."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    chosen = wanted != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[chosen]), wanted[chosen])


def train(
    model: NemotronHForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, schedule: Schedule, seed: int
) -> list[float]:
    """Train in place; returns the loss of every step."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=schedule.rate,
        betas=(0.9, 0.98),
    )
    started = time.monotonic()
    losses: list[float] = []
    model.train()
    for step, (ids, labels) in enumerate(batches(corpus, tokenizer, schedule, seed)):
        if step == schedule.steps:
            break
        done = step / schedule.steps
        rate = schedule.rate * min((step + 1) / schedule.warmup, 0.5 * (1 + math.cos(math.pi * done)) + 0.005)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16), quick_scan():
            loss = loss_of(model, ids, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == schedule.steps:
            spent = time.monotonic() - started
            left = spent / (step + 1) * (schedule.steps - step - 1)
            recent = sum(losses[-50:]) / len(losses[-50:])
            print(
                f"step {step + 1:5d}/{schedule.steps}  loss {recent:.4f}  {spent:4.0f} s  about {left:.0f} s left",
                flush=True,
            )
    model.eval()
    return losses


def write(model: NemotronHForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights in bfloat16 (exact when read as float32: the model is rounded first), config and tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    model.load_state_dict({name: value.to(torch.float32) for name, value in weights.items()})
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = ["NemotronHForCausalLM"]
    model.config.save_pretrained(out)
    GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(out)
    save(tokenizer, out)


def main() -> None:
    """Train, write the checkpoint and TRAINING.json."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="example: python demo/train.py --out /tmp/demo"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=Schedule().steps, help="training steps (default %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU threads (default %(default)s)"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    corpus, schedule = Corpus(), Schedule(steps=options.steps)
    template = (HERE / "chat_template.jinja").read_text(encoding="utf-8")
    tokenizer = build(
        corpus.texts(random.Random(options.seed), 6000),
        ARCHITECTURE["vocab_size"],
        ARCHITECTURE["max_position_embeddings"],
        template,
    )
    model = new_model(options.seed, tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters:,} parameters, {len(tokenizer)} tokens, {len(corpus.topics)} topics, {schedule.steps} steps",
        flush=True,
    )
    started, worked = time.monotonic(), time.process_time()
    losses = train(model, tokenizer, corpus, schedule, options.seed)
    seconds, worked = time.monotonic() - started, time.process_time() - worked
    write(model, tokenizer, options.out)
    record = {
        "seed": options.seed,
        "parameters": parameters,
        "steps": schedule.steps,
        "loss": round(sum(losses[-50:]) / len(losses[-50:]), 5),
        "training_seconds": round(seconds),
        "training_cpu_seconds": round(worked),
        "machine": f"{options.threads} threads on {os.cpu_count()} {platform.machine()} cores, no GPU",
        "date": date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "safetensors": safetensors.__version__,
        },
        "corpus_sha256": digest(),
        "weights_sha256": hashlib.sha256((options.out / "model.safetensors").read_bytes()).hexdigest(),
    }
    (options.out / "TRAINING.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {options.out} after {seconds:.0f} s of training", flush=True)


if __name__ == "__main__":
    main()
