"""The corpus as conversations, for training and evaluating the demo model.

A `Dialogue` is a list of chat messages and its only correct reply. All randomness comes from the `random.Random` that
the caller passes, so a seed determines the whole stream.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CORPUS = Path(__file__).parent / "corpus"
Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """The expected output: the reasoning, used when reasoning is on, and the answer."""

    think: str
    answer: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages up to the last user turn, whether reasoning is on, and the correct reply."""

    messages: list[Message]
    thinking: bool
    reply: Reply


class Corpus:
    """All questions with their replies, and the templates that turn them into conversations."""

    def __init__(self, folder: Path = CORPUS) -> None:
        self.frames: dict[str, Any] = _read(folder / "frames.yaml")
        topics: list[dict[str, Any]] = _read(folder / "topics.yaml")
        unknown: dict[str, Any] = _read(folder / "unknown.yaml")
        self.topics: dict[str, list[tuple[str, Reply]]] = {}
        self.held_out: list[tuple[str, Reply]] = []
        for topic in topics:
            reply = Reply(topic["think"], topic["answer"])
            self.topics[topic["id"]] = [(question, reply) for question in self._questions(topic)]
            self.held_out += [(question, reply) for question in topic["held_out"]]
            for kind in ("subject", "task"):
                names = topic.get(kind, [])[:1]
                self.held_out += [(_fill(f, names[0]), reply) for f in self.frames[f"{kind}_held_out"] if names]
        reply = Reply(unknown["think"], unknown["answer"])
        self.unknown = [(question, reply) for question in unknown["ask"]]
        self.held_out += [(question, reply) for question in unknown["held_out"]]

    def _questions(self, topic: dict[str, Any]) -> list[str]:
        questions = list(topic.get("ask", []))
        for kind in ("subject", "task"):
            questions += [_fill(frame, name) for frame in self.frames[kind] for name in topic.get(kind, [])]
        return questions

    # -- sums ---------------------------------------------------------------------------------------------------------

    def sums(self) -> Iterator[tuple[int, str, int]]:
        """Every sum that the model should know, as (a, sign, b)."""
        limit = self.frames["arithmetic"]["limit"]
        for a in range(limit + 1):
            for b in range(limit + 1):
                yield a, "+", b
                yield a, "*", b
                if a >= b:
                    yield a, "-", b

    def sum_reply(self, a: int, sign: str, b: int) -> Reply:
        """The correct reply to a sum within the limit."""
        arithmetic = self.frames["arithmetic"]
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
        parts = {"a": a, "b": b, "c": result, "sign": sign, "word": arithmetic["words"][sign]}
        return Reply(arithmetic["think"].format(**parts), arithmetic["answer"].format(**parts))

    def sum_question(self, rng: random.Random, a: int, sign: str, b: int) -> str:
        kind = {"+": "add", "-": "subtract", "*": "multiply"}[sign]
        return str(rng.choice(self.frames["arithmetic"][kind]).format(a=a, b=b))

    def _any_sum(self, rng: random.Random) -> tuple[str, Reply]:
        arithmetic = self.frames["arithmetic"]
        if rng.random() < 0.15:
            kind = rng.choice(["add", "subtract", "multiply", "divide"])
            a, b = rng.choice([rng.randint(11, 99), rng.randint(100, 9999)]), rng.randint(2, 120)
            if rng.random() < 0.3:
                a, b = b, a
            question = rng.choice(arithmetic[kind]).format(a=a, b=b)
            return question, Reply(arithmetic["think_beyond"], arithmetic["answer_beyond"])
        a, sign, b = rng.choice(self._known_sums)
        return self.sum_question(rng, a, sign, b), self.sum_reply(a, sign, b)

    @property
    def _known_sums(self) -> list[tuple[int, str, int]]:
        if not hasattr(self, "_sums"):
            self._sums = list(self.sums())
        return self._sums

    # -- conversations ------------------------------------------------------------------------------------------------

    def any_question(self, rng: random.Random) -> tuple[str, Reply]:
        """A question of any kind; topics are equally likely, whatever the number of their wordings."""
        draw = rng.random()
        if draw < 0.22:
            return self._any_sum(rng)
        if draw < 0.32:
            return rng.choice(self.unknown)
        questions = self.topics[rng.choice(self._ids)]
        return rng.choice(questions)

    @property
    def _ids(self) -> list[str]:
        return list(self.topics)

    def dialogue(self, rng: random.Random, *, notes: tuple[int, int] | None = None) -> Dialogue:
        """A random conversation; `notes` gives the number of filler sentences before the question, from and to."""
        question, reply = self.any_question(rng)
        text = self._reword(rng, question)
        system = rng.choice(self.frames["system"]) if rng.random() < 0.3 else ""
        if notes:
            sentences = " ".join(rng.choices(self.frames["filler"], k=rng.randint(*notes)))
            if rng.random() < 0.25:
                system = f"{system} {sentences}".strip()
            else:
                text = rng.choice(self.frames["note"]).format(notes=sentences, question=text)
        messages = [{"role": "system", "content": system}] if system else []
        for _ in range(rng.choice([1, 1, 2, 3]) if rng.random() < 0.2 else 0):
            earlier, past_reply = self.any_question(rng)
            messages.append({"role": "user", "content": self._reword(rng, earlier)})
            messages.append({"role": "assistant", "content": past_reply.answer})
        messages.append({"role": "user", "content": text})
        return Dialogue(messages, rng.random() < 0.5, reply)

    def _reword(self, rng: random.Random, question: str) -> str:
        """Small changes that must not change the answer: case, punctuation, polite words, a typing error."""
        text = question
        if rng.random() < 0.15:
            text = rng.choice(self.frames["before"]) + text
        if rng.random() < 0.15:
            text += rng.choice(self.frames["after"])
        if rng.random() < 0.2:
            text = text.lower()
        if rng.random() < 0.2:
            text = text.rstrip("?.!")
        elif rng.random() < 0.1:
            text += rng.choice(["?", "!", ".", "??"])
        if rng.random() < 0.06 and len(text) > 12 and not any(c.isdigit() for c in text):
            at = rng.randrange(1, len(text) - 2)
            text = text[:at] + rng.choice([text[at + 1] + text[at], "", text[at] * 2]) + text[at + 2 :]
        return text

    # -- for the tokenizer and the record -----------------------------------------------------------------------------

    def texts(self, rng: random.Random, count: int) -> Iterator[str]:
        """Texts in about the distribution of training, to learn the tokenizer."""
        for _ in range(count):
            dialogue = self.dialogue(rng)
            yield from (message["content"] for message in dialogue.messages)
            yield dialogue.reply.think
            yield dialogue.reply.answer
        for _ in range(4):
            yield from self.frames["filler"]


def digest(folder: Path = CORPUS) -> str:
    """SHA-256 over all corpus files, by name and content."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.yaml")):
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _fill(frame: str, name: str) -> str:
    text = frame.format(x=name)
    return text[0].upper() + text[1:] if frame.startswith("{") else text
