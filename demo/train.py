"""Train the demo model: `python demo/train.py --out src/hybridserve/demo_model`.

The model is transformers' own NemotronH (Mamba-2, MLP and attention layers) with random weights, trained on the corpus
beside this file, in about an hour on one core. The seed determines data and initial weights; floating-point sums
depend on the machine, so a second run gives a model of the same quality, not the same bytes.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
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
from dialogues import COPYING, EVERYTHING, MORE_TOPICS, PLAIN, TOOLS_MOSTLY, Corpus, Dialogue, Mix, digest
from safetensors.torch import load_file, save_file
from scan import quick_scan
from tokenizer import END, THINK_END, build, save
from transformers import GenerationConfig, NemotronHConfig, NemotronHForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
IGNORED = -100
WEIGHTS = "model.safetensors"

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
class Stage:
    """Steps with one mix of conversations. A step has about `tokens` tokens; some steps have long prompts.

    The learning rate goes from the first of `rates` to the second in a straight line.
    """

    steps: int
    mix: Mix
    rates: tuple[float, float]
    tokens: int = 2048
    long_every: int = 10


# Calls and JSON copy names and numbers from the prompt, and the model learns to copy only from texts that are nothing
# else. After that every stage has every kind: what a later stage leaves out is forgotten.
STAGES = (
    Stage(600, COPYING, (3e-3, 2.8e-3), tokens=1024, long_every=0),
    Stage(900, TOOLS_MOSTLY, (2.8e-3, 2e-3), tokens=1536, long_every=20),
    Stage(1200, EVERYTHING, (2e-3, 1.3e-3)),
    Stage(2300, MORE_TOPICS, (1.3e-3, 1e-5), long_every=7),
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Stages of the training."""

    stages: tuple[Stage, ...] = STAGES
    warmup: int = 60
    weight_decay: float = 0.05

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)


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
    # With transformers' 0.02 everywhere a model of this width learns no copying from the prompt in the whole schedule.
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embeddings" not in name and "lm_head" not in name:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    torch.nn.init.normal_(model.model.embeddings.weight, std=0.5)
    return model


def encode(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> tuple[list[int], list[int]]:
    """Token ids of the whole conversation, and labels: answers with their end markers, the last with reasoning."""
    prompt = tokenizer.encode(
        tokenizer.apply_chat_template(
            dialogue.messages,
            tools=dialogue.tools,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=dialogue.thinking,
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
    """The batches (ids, labels) of all stages, both [conversations, tokens], padded on the right."""
    rng = random.Random(seed)
    for stage in schedule.stages:
        yield from itertools.islice(stage_batches(corpus, tokenizer, stage, rng), stage.steps)


def rates(schedule: Schedule) -> Iterator[float]:
    """The learning rate of each step."""
    steps = ((stage, at / stage.steps) for stage in schedule.stages for at in range(stage.steps))
    for step, (stage, done) in enumerate(steps):
        first, last = stage.rates
        yield (first + (last - first) * done) * min((step + 1) / schedule.warmup, 1.0)


def stage_batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, stage: Stage, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """An endless stream of a stage's batches.

    Many conversations are drawn at once and batched by length, so that little is padded.
    """
    while True:
        drawn = [encode(tokenizer, corpus.dialogue(rng, stage.mix)) for _ in range(512)]
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in sorted(drawn, key=lambda row: len(row[0])):
            if (len(groups[-1]) + 1) * len(row[0]) > stage.tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for at, group in enumerate(groups):
            yield collate(group, tokenizer.pad_token_id)
            if stage.long_every and at % stage.long_every == stage.long_every - 1:
                notes, count = rng.choice([((4, 10), 6), ((4, 10), 6), ((10, 20), 3), ((20, 40), 2)])
                yield collate(
                    [encode(tokenizer, corpus.dialogue(rng, PLAIN, notes=notes)) for _ in range(count)],
                    tokenizer.pad_token_id,
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
    model: NemotronHForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    schedule: Schedule,
    seed: int,
    checkpoints: Path | None = None,
) -> list[float]:
    """Train in place; returns the loss of every step. `checkpoints` gets the model after each stage but the last."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    started = time.monotonic()
    losses: list[float] = []
    ends = list(itertools.accumulate(stage.steps for stage in schedule.stages))
    model.train()
    data = zip(batches(corpus, tokenizer, schedule, seed), rates(schedule), strict=True)
    for step, ((ids, labels), rate) in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = rate
        with quick_scan():
            loss = loss_of(model, ids, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == schedule.steps:
            spent = time.monotonic() - started
            recent = sum(losses[-50:]) / len(losses[-50:])
            print(f"step {step + 1:5d}/{schedule.steps}  loss {recent:.4f}  {spent:4.0f} s", flush=True)
        if checkpoints and step + 1 in ends[:-1]:
            number = len(STAGES) - len(ends) + ends.index(step + 1) + 1
            write(copy.deepcopy(model), tokenizer, checkpoints / f"stage-{number}")
    model.eval()
    return losses


def write(model: NemotronHForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights in bfloat16 (exact when read as float32: the model is rounded first), config and tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    model.load_state_dict({name: value.to(torch.float32) for name, value in weights.items()})
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
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
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument("--checkpoints", type=Path, help="folder for a checkpoint after each stage but the last")
    parser.add_argument("--resume", type=Path, help="checkpoint after a stage (stage-N), to go on from")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    corpus, schedule = Corpus(), Schedule()
    if options.resume:
        done = int(options.resume.name.removeprefix("stage-"))
        schedule = Schedule(stages=STAGES[done:])
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.resume)
        model = new_model(options.seed, tokenizer)
        model.load_state_dict({name: value.float() for name, value in load_file(options.resume / WEIGHTS).items()})
    else:
        done = 0
        tokenizer = build(
            corpus.texts(random.Random(options.seed), 6000),
            ARCHITECTURE["vocab_size"],
            ARCHITECTURE["max_position_embeddings"],
            (HERE / "chat_template.jinja").read_text(encoding="utf-8"),
        )
        model = new_model(options.seed, tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters:,} parameters, {len(tokenizer)} tokens, {len(corpus.topics)} topics, {schedule.steps} steps",
        flush=True,
    )
    started, worked = time.monotonic(), time.process_time()
    losses = train(model, tokenizer, corpus, schedule, options.seed + done, options.checkpoints)
    seconds, worked = time.monotonic() - started, time.process_time() - worked
    write(model, tokenizer, options.out)
    record = {
        "seed": options.seed,
        "parameters": parameters,
        "stages": [stage.steps for stage in STAGES],
        "resumed_after_stage": done,
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
        "weights_sha256": hashlib.sha256((options.out / WEIGHTS).read_bytes()).hexdigest(),
    }
    (options.out / "TRAINING.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {options.out} after {seconds:.0f} s of training", flush=True)


if __name__ == "__main__":
    main()
