"""Evaluate the demo model: `python demo/evaluate.py src/hybridserve/demo_model`.

Greedy decoding with transformers in float32. An answer is correct only when the whole reply, reasoning included, is
the corpus's text and ends with the end marker. The margin of a reply is the smallest gap between best and second-best
logit over its tokens: where it is large, an engine with different rounding chooses the same tokens. The names and
numbers in the rows "new values" and the tools in "new tools" are never trained on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from dialogues import PLAIN, Corpus, Dialogue, Message, Mix, Reply
from tokenizer import END, THINK_END
from tool_tasks import Tool
from transformers import AutoTokenizer, NemotronHForCausalLM, PreTrainedTokenizerBase

Case = tuple[list[Message], Reply, list[Tool] | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One greedy reply: text, correctness, smallest logit gap, length of the prompt."""

    text: str
    right: bool
    margin: float
    prompt_tokens: int


class Evaluator:
    """A loaded checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self.model = NemotronHForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def answer(
        self, messages: list[Message], thinking: bool | None, limit: int = 120, tools: list[Tool] | None = None
    ) -> tuple[str, float, int]:
        """Greedy reply with markers, its margin, and the number of prompt tokens."""
        switch = {} if thinking is None else {"enable_thinking": thinking}
        prompt = self.tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=True, **switch
        )
        ids = self.tokenizer(prompt, return_tensors="pt").input_ids
        out = self.model.generate(
            ids, max_new_tokens=limit, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        best = torch.stack(out.logits)[:, 0].topk(2).values
        text = self.tokenizer.decode(out.sequences[0, ids.shape[1] :])
        return text, float((best[:, 0] - best[:, 1]).min()), ids.shape[1]

    @torch.inference_mode()
    def outcomes(self, dialogues: list[Dialogue], tokens: int = 8192) -> list[Outcome]:
        """Whether greedy decoding yields exactly the expected reply, for each dialogue.

        One forward pass over prompt and expected reply is enough: greedy decoding yields it if each token is the best.
        Rows are batched by length, about `tokens` tokens at a time.
        """
        rows = []
        for at, dialogue in enumerate(dialogues):
            prompt = self.tokenizer.encode(
                self.tokenizer.apply_chat_template(
                    dialogue.messages,
                    tools=dialogue.tools,
                    tokenize=False,
                    add_generation_prompt=True,
                    enable_thinking=dialogue.thinking,
                )
            )
            rows.append((at, prompt, self.tokenizer.encode(expected(dialogue.reply, dialogue.thinking))))
        rows.sort(key=lambda row: -len(row[1]) - len(row[2]))
        found: dict[int, Outcome] = {}
        while rows:
            width = len(rows[0][1]) + len(rows[0][2])
            count = max(1, tokens // width)
            batch, rows = rows[:count], rows[count:]
            # Padding follows the text, where a causal model does not see it.
            ids = [prompt + reply + [0] * (width - len(prompt) - len(reply)) for _, prompt, reply in batch]
            hidden = self.model.model(torch.tensor(ids), use_cache=False).last_hidden_state
            for (at, prompt, reply), states in zip(batch, hidden, strict=True):
                logits = self.model.lm_head(states[len(prompt) - 1 : len(prompt) + len(reply) - 1])
                best, chosen = logits.topk(2).values, logits.argmax(-1)
                right = bool((chosen == torch.tensor(reply)).all())
                margin = float((best[:, 0] - best[:, 1]).min())
                found[at] = Outcome(self.tokenizer.decode(chosen), right, margin, len(prompt))
        return [found[at] for at in range(len(dialogues))]


def expected(reply: Reply, thinking: bool) -> str:
    """The text that the model should write after the prompt, end marker included."""
    return (reply.think + THINK_END if thinking else "") + reply.answer + END


def cases(corpus: Corpus, rng: random.Random) -> dict[str, list[Case]]:
    """Named sets of conversations: wordings, sums, system messages, several turns, long prompts, tools, JSON."""

    def user(text: str) -> list[Message]:
        return [{"role": "user", "content": text}]

    known = [
        (user(q), r) for questions in corpus.topics.values() for q, r in rng.sample(questions, min(3, len(questions)))
    ]
    sums = [(user(corpus.sum_question(rng, *s)), corpus.sum_reply(*s)) for s in corpus.sums()]
    random_dialogues = [corpus.dialogue(rng, PLAIN) for _ in range(1000)]
    long_dialogues = [corpus.dialogue(rng, PLAIN, notes=(25, 60)) for _ in range(80)]
    idle_dialogues = [corpus.dialogue(rng, Mix(idle=1, system=0, earlier=0)) for _ in range(200)]
    sets: dict[str, list[tuple[list[Message], Reply]]] = {
        "known wordings": known,
        "new wordings": [(user(q), r) for q, r in corpus.held_out],
        "beyond its topics": [(user(q), r) for q, r in corpus.unknown],
        "sums": sums,
        "system message": [(d.messages, d.reply) for d in random_dialogues if d.messages[0]["role"] == "system"],
        "several turns": [(d.messages, d.reply) for d in random_dialogues if len(d.messages) > 3],
        "long prompts": [(d.messages, d.reply) for d in long_dialogues],
    }
    sets["JSON, new values"] = [corpus.form(rng, held_out=True) for _ in range(300)]
    return {name: [(messages, reply, None) for messages, reply in pairs] for name, pairs in sets.items()} | {
        "tool call, new values": [corpus.call(rng, held_out=True) for _ in range(300)],
        "tool call, new tools": [corpus.call(rng, held_out=True, new_tool=True) for _ in range(200)],
        "tool result, new values": [corpus.result(rng, held_out=True) for _ in range(200)],
        "tools not needed": [(d.messages, d.reply, d.tools) for d in idle_dialogues],
    }


def main() -> int:
    """Print the table; exit 1 when known wordings fall below 95 % in either mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=Path, help="also run tests/data/demo_prompts.json")
    parser.add_argument("--wrong", action="store_true", help="show the wrong answers")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU threads")
    parser.add_argument("--json", action="store_true", help="machine-readable table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    evaluator, corpus = Evaluator(options.folder), Corpus()
    table: dict[str, dict[str, float]] = {}
    for name, dialogues in cases(corpus, random.Random(1)).items():
        for thinking in (False, True):
            outcomes = evaluator.outcomes(
                [Dialogue(messages, thinking, reply, tools) for messages, reply, tools in dialogues]
            )
            right = [outcome for outcome in outcomes if outcome.right]
            table[f"{name}, reasoning {'on' if thinking else 'off'}"] = {
                "cases": len(outcomes),
                "right": round(len(right) / len(outcomes), 4),
                "smallest margin of the right": round(min(o.margin for o in right), 3),
            }
            if options.wrong:
                for (messages, _, _), outcome in zip(dialogues, outcomes, strict=True):
                    if not outcome.right:
                        print(f"  {name}: {messages[-1]['content'][-80:]!r} -> {outcome.text[:110]!r}")
    if options.prompts:
        prompts = json.loads(options.prompts.read_text(encoding="utf-8"))["prompts"]
        margins, hits = [], 0
        for prompt in prompts:
            text, margin, _ = evaluator.answer(
                prompt["messages"], prompt.get("enable_thinking"), tools=prompt.get("tools")
            )
            hit = text.endswith(END) and prompt.get("expect", "") in text.split(THINK_END)[-1]
            hits += hit
            margins.append(margin)
            if options.wrong and not (hit and margin > 0.2):
                print(f"  {prompt['id']}: margin {margin:.3f} -> {text[:160]!r}")
        table["evaluation prompts"] = {
            "cases": len(prompts),
            "right": round(hits / len(prompts), 4),
            "smallest margin": round(min(margins), 3),
        }
    if options.json:
        print(json.dumps(table, indent=2))
    else:
        for name, row in table.items():
            print(f"{name:34s}" + "  ".join(f"{key} {value}" for key, value in row.items()))
    known = [row["right"] for name, row in table.items() if name.startswith("known wordings")]
    return 0 if min(known) >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
